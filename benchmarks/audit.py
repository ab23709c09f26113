"""Time and memory of the copy audit on this machine: `make benchmark-audit`, or `python benchmarks/audit.py OUT.json`.

time    The whole of `audit()` with an embedding that is trained already: 1,000 synthetic images at 128 px, 250 validation
        images and 9 x 100 planted copies against 1,000 training images. Baseline: each pair laid over one another by
        scikit-image's phase correlation at the audit's 64 px, over the mirror images, rotations and scales that the audit's
        search goes through. It is timed on a sample of pairs and extrapolated to the same number of pairs.
memory  A process of its own: 50,000 training images in a `Gallery`, 50,000 others with their embeddings in memory. All of these
        would take hours to align, and what is in use does not grow with them: the peak is taken over the preparation, the pixel
        and embedding neighbours of a full block of them, and `compare` of the first ones, which are aligned 8 at a time.

The images are phantoms, each of them altered at random many times over; neither measure depends on what they show.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from diffusers_macdm.audit import audit, neighbours
from diffusers_macdm.audit.embedding import train_embedding
from diffusers_macdm.audit.images import SIZE, to_audit_size, to_unit
from diffusers_macdm.audit.neighbours import Gallery
from diffusers_macdm.audit.planted import MAX_PLANTED
from diffusers_macdm.audit.radiographs import load_radiographs
from diffusers_macdm.audit.registration import ROTATIONS, SCALES
from diffusers_macdm.phantom import phantom_case


NUM_PHANTOMS = 100
THREADS = 2
TIME_LIMIT_S, MEMORY_LIMIT_GIB = 300, 4


def altered_phantoms(count: int, size: int, seed: int):
    """Yields `count` uint8 films `[size, size]`: phantoms turned, rescaled, shifted, with another exposure and noise."""
    generator = np.random.default_rng(seed)
    films = [
        Image.fromarray(phantom_case(size, i % 2 == 1, np.random.default_rng([seed, i])).radiograph)
        for i in range(min(count, NUM_PHANTOMS))
    ]
    for i in range(count):
        angle, scale = generator.uniform(-0.2, 0.2), generator.uniform(0.85, 1.15)
        cos, sin = scale * math.cos(angle), scale * math.sin(angle)
        x, y = generator.uniform(-0.1, 0.1, 2) * size + size / 2
        inverse = (cos, sin, size / 2 - cos * x - sin * y, -sin, cos, size / 2 + sin * x - cos * y)
        film = films[i % len(films)].transform((size, size), Image.Transform.AFFINE, inverse, Image.Resampling.BILINEAR)
        values = 255 * (np.asarray(film) / 255) ** generator.uniform(0.7, 1.4) + generator.normal(0, 4, (size, size))
        yield values.clip(0, 255).astype(np.uint8)


def write_split(folder: Path, count: int, size: int, seed: int) -> None:
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    Image.fromarray(np.zeros((size, size), np.uint8)).save(folder / "masks/empty.png")
    with (folder / "metadata.jsonl").open("w", encoding="utf-8") as metadata:
        for i, film in enumerate(altered_phantoms(count, size, seed)):
            Image.fromarray(film).save(folder / f"images/{folder.name}_{i:05d}.png")
            masks = {f"{mask}_mask_file_name": "masks/empty.png" for mask in ("anatomy", "lesion")}
            row = {"image_file_name": f"images/{folder.name}_{i:05d}.png", **masks, "label": i % 2}
            metadata.write(json.dumps(row) + "\n")


def measure_time(count: int, num_validation: int, size: int, baseline_pairs: int) -> dict:
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        splits = (("real/train", count), ("real/validation", num_validation), ("synthetic/train", count))
        for seed, (split, images) in enumerate(splits):
            write_split(folder / split, images, size, seed)
        training = load_radiographs(folder / "real", "train").images
        train_embedding(training, 1, 0).save_pretrained(folder / "embedding")
        before, load = (time.perf_counter(), time.process_time()), os.getloadavg()[0]
        audit(
            folder / "real",
            folder / "synthetic",
            folder / "out",
            embedding=folder / "embedding",
            device="cpu",
            progress=sys.stderr.isatty(),
        )
        wall, cpu = time.perf_counter() - before[0], time.process_time() - before[1]
        made = load_radiographs(folder / "synthetic", "train").images
    compared = count + num_validation + 9 * min(MAX_PLANTED, count)  # synthetic, validation, planted
    pairs = compared * count
    per_pair = phase_correlation_seconds(made, training, baseline_pairs)
    return {
        "what": f"audit() of {count} synthetic against {count} training images at {size} px, with {num_validation} validation "
        f"images and {9 * min(MAX_PLANTED, count)} planted copies; the embedding is given",
        "wall_s": wall,
        "cpu_s": cpu,
        "cpu_share": cpu / wall / THREADS,  # below 1 where other processes had the cores
        "load_average": [load, os.getloadavg()[0]],
        "limit_wall_s": TIME_LIMIT_S,
        "images_compared": compared,
        "pairs": pairs,
        "baseline": {
            "what": "phase correlation of scikit-image for each pair, mirror image, rotation and scale of the search; CPU time "
            f"of {baseline_pairs} pairs, extrapolated",
            "cpu_s_per_pair": per_pair,
            "cpu_s": per_pair * pairs,
            "ratio": per_pair * pairs / cpu,
        },
    }


def phase_correlation_seconds(queries: torch.Tensor, training: torch.Tensor, num_pairs: int) -> float:
    """CPU seconds that a pair takes by brute force, the same alignments tried for the rotation, scale and mirror image."""
    from scipy.ndimage import affine_transform, shift
    from skimage.registration import phase_cross_correlation

    generator = np.random.default_rng(0)
    started = time.process_time()
    for _ in range(num_pairs):
        query, fixed = (to_unit(images[generator.integers(len(images))]).numpy() for images in (queries, training))
        best = np.inf
        for mirror, degrees, scale in itertools.product((1, -1), ROTATIONS, SCALES):
            cos, sin = math.cos(math.radians(degrees)) / scale, math.sin(math.radians(degrees)) / scale
            matrix = np.array([[cos, -sin], [sin, cos]])
            centre = np.full(2, (SIZE - 1) / 2)
            moved = affine_transform(query[:, ::mirror], matrix, centre - matrix @ centre, order=1)
            moved = shift(moved, phase_cross_correlation(fixed, moved, normalization=None)[0], order=1)
            best = min(best, 1 - np.corrcoef(moved.ravel(), fixed.ravel())[0, 1])
    return (time.process_time() - started) / num_pairs


def many_images(count: int, seed: int) -> torch.Tensor:
    base = to_audit_size(film / np.float32(255) for film in altered_phantoms(400, SIZE, seed))
    images = torch.empty(count, SIZE, SIZE, dtype=torch.uint8)
    generator = torch.Generator().manual_seed(seed)
    for i in range(count):
        y, x = torch.randint(-6, 7, (2,), generator=generator).tolist()
        images[i] = base[i % len(base)].roll((y, x), dims=(0, 1))
    return images


def measure_memory(count: int, num_aligned: int) -> dict:
    torch.set_num_threads(THREADS)
    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # noqa: E731  kibibytes on Linux
    peaks = {"imports_gib": peak()}
    training, made = many_images(count, 0), many_images(count, 1)
    embedding = train_embedding(training[:256], 1, 0)
    peaks["images_gib"] = peak()
    started = time.process_time()
    gallery = Gallery(training, [None] * count, embedding)
    peaks["gallery_gib"] = peak()
    prepared = time.process_time() - started
    embeddings = embedding.embed(made)
    block = slice(0, neighbours._QUERY_BLOCK)
    gallery._nearest(neighbours._pixels(made[block]), neighbours._pixels, neighbours.PIXEL_CANDIDATES)
    torch.topk(embeddings[block] @ gallery.embeddings.T, min(neighbours.EMBEDDING_CANDIDATES, count))
    peaks["nearest_of_a_block_gib"] = peak()
    started = time.process_time()
    gallery.compare(made[:num_aligned])
    peaks["compare_gib"] = peak()
    return {
        "what": f"peak resident memory with {count} training images and {count} others and their embeddings in memory: the "
        f"pixel and embedding neighbours of {neighbours._QUERY_BLOCK} of these, then `compare` of {num_aligned}; the "
        "remaining ones go through the same buffers and were not run",
        "peak_gib": peak(),
        "limit_gib": MEMORY_LIMIT_GIB,
        "peaks_in_order": peaks,
        "gallery_cpu_s": prepared,
        "compare_cpu_s_per_image": (time.process_time() - started) / num_aligned,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("out", metavar="OUT.json", type=Path, help="new file")
    parser.add_argument("--count", type=int, default=1000, help="time: synthetic and training images")
    parser.add_argument("--validation", type=int, default=250, help="time: validation images")
    parser.add_argument("--size", type=int, default=128, help="time: side of the images in pixels")
    parser.add_argument("--baseline-pairs", type=int, default=20, help="time: pairs that the baseline is timed on")
    parser.add_argument("--memory-count", type=int, default=50_000, help="memory: images on either side")
    parser.add_argument("--memory-aligned", type=int, default=16, help="memory: images that are compared")
    parser.add_argument("--only", choices=("time", "memory"), help="one of the two measures")
    args = parser.parse_args()
    if args.out.exists():
        parser.error(f"{args.out} exists; nothing is overwritten.")
    result = {"machine": {"cpus": os.cpu_count(), "processor": platform.processor(), "torch": torch.__version__}}
    if args.only != "memory":
        result["time"] = measure_time(args.count, args.validation, args.size, args.baseline_pairs)
    if args.only == "memory":
        result["memory"] = measure_memory(args.memory_count, args.memory_aligned)
    elif args.only is None:
        # a process of its own: the peak of this one is that of the audit above
        with tempfile.TemporaryDirectory() as folder:
            child = Path(folder) / "memory.json"
            numbers = ["--memory-count", args.memory_count, "--memory-aligned", args.memory_aligned]
            command = [sys.executable, __file__, child, "--only", "memory", *numbers]
            subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)
            result["memory"] = json.loads(child.read_text(encoding="utf-8"))["memory"]
    temporary = args.out.with_name(f".{args.out.name}.tmp")
    temporary.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    temporary.rename(args.out)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
