"""Write the self-contained files of `diffusers_macdm.single_file` into `pipelines/macdm` (`make single-file`).

    python pipelines/write_single_file.py

They are the files that a published pipeline has beside its weights, kept here for reading and for
`custom_pipeline="pipelines/macdm"` in a clone. A test compares them with the package.
"""

from __future__ import annotations

from pathlib import Path

from diffusers_macdm.hub.single_file import self_contained_files


FOLDER = Path(__file__).parent / "macdm"
COMPONENTS = ("unet", "guidance_classifier")  # weak_unet/macdm.py is unet/macdm.py once more


def main() -> None:
    for name, text in self_contained_files(COMPONENTS).items():
        path = FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
        print(path)


if __name__ == "__main__":
    main()
