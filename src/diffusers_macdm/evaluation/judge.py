"""The networks that measure synthetic pairs: classifier, segmenter and copy detector, trained on real cases alone.

FOLDER/diagnosis.safetensors, FOLDER/segmentation.safetensors     the networks, where they are to be kept
FOLDER/embedding/                                                 the copy detector's embedding
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path

import torch

from ..audit.copies import CopyDetector
from ..audit.embedding import CopyEmbedding, train_embedding
from ..audit.neighbours import Gallery
from ..data.cases import Cases
from ..files import new_file, new_folder
from ..progress import Progress
from .downstream import DownstreamTraining, Stage
from .features import FeatureExtractor, classifier_features
from .mask_fit import mask_fit
from .networks import DIAGNOSIS, SEGMENTATION
from .realism import realism


class Judge:
    """Measure synthetic pairs by networks of the real training cases, each trained when it is first asked for.

    The last state of each training is taken: no held-out case has chosen it, so that all of them are new to these networks.

    Args:
        train: real training cases.
        training: budgets of the classifier and the segmenter.
        seed: seed of every training and every measure.
        folder: where the networks are kept, so that an interrupted command goes on with the same ones; None keeps them in
            memory.
        extractor: features of the realism; those of the diagnosis classifier when None.
        show_progress: whether to show how far a training is.
    """

    def __init__(
        self,
        train: Cases,
        training: DownstreamTraining,
        *,
        seed: int,
        folder: Path | None = None,
        extractor: FeatureExtractor | None = None,
        show_progress: bool = True,
    ):
        self.train, self.training, self.seed = train, training, seed
        self.folder, self.show_progress = folder, show_progress
        self._networks: dict[str, torch.nn.Module] = {}
        self._extractor = extractor

    def network(self, task: str) -> torch.nn.Module:
        """Return the network of a task (`downstream.TASKS`), frozen, in evaluation mode."""
        if task not in self._networks:
            path = None if self.folder is None else self.folder / f"{task}.safetensors"
            known = path is not None and path.is_file()
            self._networks[task] = self._load(task, path) if known else self._train(task, path)
        return self._networks[task]

    @property
    def extractor(self) -> FeatureExtractor:
        """The feature extractor of the realism."""
        if self._extractor is None:
            self._extractor = classifier_features(self.network(DIAGNOSIS), device=self.training.device)
        return self._extractor

    def realism_and_fit(self, held_out: Cases, synthetic: Cases) -> dict:
        """Measure how real radiographs look and how well masks fit.

        Args:
            held_out: real cases to compare with.
            synthetic: pairs; without a mask that the real ones have there is no fit.

        Returns:
            `realism` (see `realism.realism`) and `fit` (see `mask_fit.mask_fit`; None without masks), JSON-ready.
        """
        look, fit = realism(held_out, synthetic, self.extractor, self.seed), None
        if {*synthetic.known_masks} & {*held_out.known_masks}:
            fit = mask_fit(self.network(SEGMENTATION), held_out, synthetic, self.seed, device=self.training.device)
        return {"realism": look, "fit": fit}

    def copy_embedding(self, images: torch.Tensor, steps: int) -> CopyEmbedding:
        """Return the copy detector's embedding of training radiographs, uint8 `[N, 64, 64]`, trained for so many steps."""
        path = None if self.folder is None else self.folder / "embedding"
        if path is not None and path.is_dir():
            embedding = CopyEmbedding.from_pretrained(str(path)).to(self.training.device)
            return embedding.eval().requires_grad_(False)
        embedding = train_embedding(images, steps, self.seed, device=self.training.device, progress=self.show_progress)
        if path is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            with new_folder(path) as temporary:
                embedding.save_pretrained(temporary)
        return embedding

    def copy_detector(
        self, images: torch.Tensor, patients: Sequence[Hashable | None], held_out_images: torch.Tensor, steps: int
    ) -> CopyDetector:
        """Return a detector of copies of training radiographs.

        Args:
            images: training radiographs, uint8 `[N, 64, 64]` (see `audit.images.to_audit_size`).
            patients: patient of each; None is a patient of its own.
            held_out_images: uint8 `[M, 64, 64]`, which copy nobody; they set the threshold.
            steps: optimisation steps of the embedding.
        """
        gallery = Gallery(images, patients, self.copy_embedding(images, steps))
        return CopyDetector(
            gallery, gallery.compare(held_out_images, progress="held-out films" if self.show_progress else None)
        )

    def _train(self, task: str, path: Path | None) -> torch.nn.Module:
        steps = self.training.budgets[task].steps
        with Progress(steps, f"reference, {task}", show=self.show_progress) as progress:
            stages, update = [Stage(self.train)], lambda step: progress.update()
            network = self.training.train(task, stages, None, self.seed, progress=update).network
        if path is not None:
            from safetensors.torch import save_file

            path.parent.mkdir(parents=True, exist_ok=True)
            with new_file(path) as temporary:
                save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, temporary)
        return network

    def _load(self, task: str, path: Path) -> torch.nn.Module:
        from safetensors.torch import load_file

        network = self.training.build(task, self.train.size)
        network.load_state_dict(load_file(path))
        return network.to(self.training.device).eval().requires_grad_(False)
