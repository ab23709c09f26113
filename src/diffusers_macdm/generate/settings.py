"""The options of `macdm generate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ..checks import check_at_least, check_noise_level


@dataclass(frozen=True)
class Settings:
    """Write a synthetic set: pairs of radiograph and masks, the settings, a summary and a contact sheet.

    Called again with the same settings it goes on where an interrupted run stopped. The labels take turns, so a larger set
    contains the smaller one.

    Attributes:
        model: A trained MaCDMPipeline: folder, or owner/name[@version] on the Hub.
        out: New folder, or one that was interrupted.
        num_per_class: Pairs for each label.
        from_data: Make variations of the real cases of this data set, with --strength.
        strength: Noise level Z / T of a variation, in (0, 1]; 1 is pure noise.
        insert_into: Paint lesions into the normal films of this data set; the rest of each film stays as it is. Their shapes
            are those of the lesions in the same set, moved to the film's anatomy.
        lesion_masks: With --insert-into, let the model draw the lesion's outline in the region (generated, when not given), or
            give it that of the moved lesion.
        masks_from: Take the masks of the real cases of this data set, unchanged, and make new radiographs.
        split: Split of the real data.
        class_labels: Labels to make; all that the model knows when not given.
        guidance_scale: Scale of classifier guidance; 0 is off.
        guidance_interval: Noise levels at which guidance acts; 0 is clean, 1 pure noise.
        classifier_free_guidance_scale: Scale of classifier-free guidance; 1 is off.
        num_inference_steps: Steps from noise to sample.
        scheduler: Scheduler class of diffusers; the model's own when not given.
        seed: Everything random follows from it.
        batch_size: Pairs that are sampled together.
        refine_masks: Refine the generated masks: no specks, no holes, the lesion inside the anatomy.
        reject_copies: Real set that trained the model; pairs that the copy audit calls copies of its training images are made
            again from other seeds.
        device: Device to sample on, for example cuda or cpu; cuda when not given and there is one.
        dtype: Floating-point type of the networks; the equations around them are computed in float32.
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    num_per_class: Annotated[int, tyro.conf.arg(metavar="N")]
    from_data: Annotated[str | None, tyro.conf.arg(name="from", metavar="DATA")] = None
    strength: Annotated[float | None, tyro.conf.arg(metavar="Z")] = None
    masks_from: Annotated[str | None, tyro.conf.arg(metavar="DATA")] = None
    insert_into: Annotated[str | None, tyro.conf.arg(metavar="DATA")] = None
    lesion_masks: Literal["given", "generated"] | None = None
    split: str = "train"
    class_labels: Annotated[tuple[int, ...] | None, tyro.conf.arg(name="labels", metavar="LABEL ...")] = None
    guidance_scale: Annotated[float, tyro.conf.arg(metavar="g")] = 0.0
    guidance_interval: Annotated[tuple[float, float], tyro.conf.arg(metavar="LO HI")] = (0.0, 1.0)
    classifier_free_guidance_scale: Annotated[float, tyro.conf.arg(metavar="s")] = 1.0
    num_inference_steps: Annotated[int, tyro.conf.arg(metavar="k")] = 25
    scheduler: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    seed: int = 0
    batch_size: int = 16
    refine_masks: bool = True
    reject_copies: Annotated[str | None, tyro.conf.arg(metavar="DATA")] = None
    device: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"

    def __post_init__(self):
        check_at_least(self, num_per_class=1, batch_size=1, seed=0)
        if self.from_data is not None and self.masks_from is not None:
            raise ValueError("from_data and masks_from are both given: a pair is a variation of a real case or has its masks.")
        if self.insert_into is not None and (self.from_data is not None or self.masks_from is not None):
            raise ValueError("insert_into goes with neither from_data nor masks_from: the rest of the film stays as it is.")
        if self.insert_into is None and self.lesion_masks is not None:
            raise ValueError(f"lesion_masks={self.lesion_masks} needs insert_into: the films that lesions are painted into.")
        if self.from_data is not None and self.strength is None:
            raise ValueError("from_data needs a strength in (0, 1]: how far a pair may go from its real case.")
        if self.from_data is None and self.strength is not None:
            raise ValueError(f"strength={self.strength} needs from_data: the real cases to start from.")
        if self.strength is not None:
            check_noise_level("strength", self.strength)
