"""`MaCDMPipeline`: new pairs, variations of real cases, masks -> image and image -> masks."""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import PIL.Image
import torch
from diffusers import DDPMParallelScheduler, DDPMScheduler, DiffusionPipeline, ModelMixin, PNDMScheduler
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.configuration_utils import FrozenDict
from diffusers.utils import BaseOutput, logging
from diffusers.utils.torch_utils import randn_tensor

from .forward_process import PREDICTION_TYPES, ForwardProcess, noise_of, prediction_of
from .guidance import (
    autoguided_noise,
    classifier_free_guided_noise,
    classifier_gradient,
    classifier_guided_noise,
    in_guidance_interval,
)
from .image_processor import OUTPUT_TYPES, masks_from, radiographs_from, to_output
from .joint_sample import (
    ANATOMY_MASK,
    CHANNELS,
    LESION_MASK,
    NORMAL_LABEL,
    RADIOGRAPH,
    from_signal,
    signal_weights,
    split,
    to_signal,
)
from .refinement import refine_mask, refine_masks


logger = logging.get_logger("diffusers.macdm.pipeline")

# Schedulers with the right tables (`betas`, `alphas_cumprod`) that cannot sample from this model all the same.
REFUSED_SCHEDULERS = {
    "LCMScheduler": "it needs a network distilled for consistency",
    "TCDScheduler": "it needs a network distilled for consistency",
    "SCMScheduler": "it needs a network distilled for consistency",
    "DDIMInverseScheduler": "it runs from the image to noise",
    "DPMSolverMultistepInverseScheduler": "it runs from the image to noise",
    "DPMSolverSDEScheduler": "it draws its noise outside of `generator`, so no sample could be made again",
    "RePaintScheduler": "it takes further arguments in every step; give the known channels to the pipeline instead",
    "UnCLIPScheduler": "it has a process of its own for image embeddings",
    "CogVideoXDDIMScheduler": "it has a process of its own for video",
    "CogVideoXDPMScheduler": "it has a process of its own for video",
    "DDPMWuerstchenScheduler": "it has a process of its own with continuous timesteps",
}

# Of `from_pretrained`, what says where a checkpoint is: the same for each of its files.
HUB_ARGUMENTS = ("cache_dir", "force_download", "proxies", "local_files_only", "token", "revision")

NOISE_SCHEDULE_KEYS = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "rescale_betas_zero_snr",
    "prediction_type",
)


@dataclass
class MaCDMPipelineOutput(BaseOutput):
    """
    Output of [`MaCDMPipeline`]: one entry in each field for every pair.

    Args:
        images: radiographs; list of 8-bit grayscale PIL images, array `[B, H, W, 1]` or tensor `[B, 1, H, W]` in [0, 1].
        anatomy_masks, lesion_masks: masks in the same form, 0 or 255 as PIL image, 0 or 1 otherwise.
        class_labels: the labels that were asked for, `None` for "not known".
    """

    images: list[PIL.Image.Image] | np.ndarray | torch.Tensor
    anatomy_masks: list[PIL.Image.Image] | np.ndarray | torch.Tensor
    lesion_masks: list[PIL.Image.Image] | np.ndarray | torch.Tensor
    class_labels: list[int | None]


class MaCDMPipeline(DiffusionPipeline):
    r"""
    Samples radiograph, anatomy mask and lesion mask jointly (MaC-DM, arXiv 2311.13688).

    Components:
        unet ([`MaCDMUNet2DModel`]): the denoiser.
        scheduler ([`SchedulerMixin`]):
            Any scheduler of diffusers that integrates the variance-preserving process the denoiser was trained on: DDPM
            (which uses the learned variance), DDIM, DPM-Solver++, UniPC, Euler, Heun, DEIS and their relatives. One that
            cannot work is refused by name with the reason.
        guidance_classifier ([`GuidanceClassifier`], *optional*): needed for `guidance_scale` > 0.
        weak_unet ([`MaCDMUNet2DModel`], *optional*):
            An early snapshot of the denoiser, needed for `autoguidance_scale` other than 1.
    """

    model_cpu_offload_seq = "guidance_classifier->weak_unet->unet"
    _optional_components = ["guidance_classifier", "weak_unet"]
    _callback_tensor_inputs = ["latents", "class_labels"]

    # The components are annotated by their base class: a published repository has a file of its own for each of them.
    def __init__(
        self,
        unet: ModelMixin,
        scheduler,
        guidance_classifier: ModelMixin | None = None,
        weak_unet: ModelMixin | None = None,
    ):
        super().__init__()
        # `OtherScheduler.from_config(pipe.scheduler.config)` drops every value listed in `_use_default_values` in favour
        # of the *other* class's defaults, betas included. The values the denoiser was trained with are no such defaults.
        if scheduler is not None and scheduler.config.get("_use_default_values"):
            scheduler._internal_dict = FrozenDict({**scheduler.config, "_use_default_values": []})
        self.register_modules(unet=unet, scheduler=scheduler, guidance_classifier=guidance_classifier, weak_unet=weak_unet)
        self._trained_alphas_cumprod = getattr(scheduler, "alphas_cumprod", None)
        self._trained_prediction_type = scheduler.config.get("prediction_type") if scheduler is not None else None

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        """Load a pipeline from a folder or from the Hub, with the arguments of [`~DiffusionPipeline.from_pretrained`].

        A `scheduler` given in place of the checkpoint's own is held to the noise schedule and prediction type that stand in the
        checkpoint, as one that is assigned later is.

        Raises:
            ValueError: for a scheduler that cannot sample from this model.
        """
        pipe = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        where = {name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs}
        replaced = kwargs.get("scheduler") is not None
        if replaced and cls.load_config(pretrained_model_name_or_path, **where).get("scheduler", [None])[0] is not None:
            config = DDPMScheduler.load_config(pretrained_model_name_or_path, subfolder="scheduler", **where)
            # The noise schedules of all schedulers that this pipeline takes follow from the same keys.
            own = DDPMScheduler(**{key: config[key] for key in NOISE_SCHEDULE_KEYS if key in config})
            pipe._trained_alphas_cumprod = own.alphas_cumprod
            pipe._trained_prediction_type = own.config.prediction_type
            pipe.check_scheduler()
        return pipe

    @property
    def interrupt(self) -> bool:
        """A callback sets `pipe._interrupt = True` to end the sampling early."""
        return self._interrupt

    @property
    def num_timesteps(self) -> int:
        """Number of network evaluations of the latest call, without those that guidance adds."""
        return self._num_timesteps

    @torch.no_grad()
    def __call__(
        self,
        class_labels: int | Sequence[int] | torch.Tensor | None = None,
        image: PIL.Image.Image | np.ndarray | torch.Tensor | list | None = None,
        anatomy_mask: PIL.Image.Image | np.ndarray | torch.Tensor | list | None = None,
        lesion_mask: PIL.Image.Image | np.ndarray | torch.Tensor | list | None = None,
        strength: float | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 0.0,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        classifier_free_guidance_scale: float = 1.0,
        autoguidance_scale: float = 1.0,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        refine_masks: bool = True,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict] | PipelineCallback | MultiPipelineCallbacks | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> MaCDMPipelineOutput | tuple:
        r"""
        `guidance_scale` is that of *classifier* guidance, which is additive: **0 is off** (classifier-free guidance, here
        `classifier_free_guidance_scale` and elsewhere in diffusers `guidance_scale`, is off at 1).

        What is given is kept, what is not given is generated:

        - nothing but labels: new pairs;
        - `image`, `anatomy_mask`, `lesion_mask` and `strength`: a variation of a real case (the paper's stage two);
        - `anatomy_mask` and `lesion_mask`: a radiograph that fits them;
        - `image`: its masks;
        - one mask of the two: the missing one and the radiograph; the given mask is noised to the current level at every
          step (arXiv 2011.13456, app. I.2), since the network has one timestep for both masks.

        Args:
            class_labels (`int`, list or `torch.Tensor` `[B]`, *optional*):
                In [0, number of classes); the null label or `None` stands for "not known".
            image (*optional*): Radiograph(s): PIL image (8- or 16-bit grayscale, resampled to the model's size), array
                `[H, W]`, `[B, H, W]`, `[B, H, W, 1]` or tensor `[H, W]`, `[B, H, W]`, `[B, 1, H, W]` of the model's size in
                [0, 1] (uint8 and uint16: full range), or a list of these.
            anatomy_mask, lesion_mask (*optional*): Mask(s) in the same forms, 0 / non-zero.
            strength (`float`, *optional*): `Z / T` in (0, 1]: the real case is noised to level `Z` and sampling starts
                there, at the first timestep of the schedule that is not above it.
            num_inference_steps (`int`, defaults to 50): Steps from pure noise to the sample; `strength` leaves out the
                first ones.
            guidance_scale (`float`, defaults to 0.0): `g` of `eps - sqrt(1 - abar_t) g grad log p_phi(y | I_t, t)` (ADM,
                arXiv 2105.05233, algorithm 2). 0 is off.
            guidance_interval (`tuple[float, float]`, defaults to `(0.0, 1.0)`): Noise levels, as fractions (0 clean, 1 pure
                noise), at which guidance of any kind acts (arXiv 2404.07724).
            classifier_free_guidance_scale (`float`, defaults to 1.0): `s` of `eps_null + s (eps_label - eps_null)`. 1 is off.
            autoguidance_scale (`float`, defaults to 1.0): `s` of `eps_weak + s (eps - eps_weak)` (arXiv 2406.02507); needs
                `weak_unet`. 1 is off.
            eta (`float`, defaults to 0.0): Stochasticity of DDIM; other schedulers have none such.
            generator (`torch.Generator` or one for each sample, *optional*): With one for each sample, a sample is the same
                in any batch.
            latents (`torch.Tensor` `[B, 3, H, W]`, *optional*): Standard normal noise to start from.
            refine_masks (`bool`, defaults to `True`): Remove specks, fill holes, keep the lesion inside the anatomy and
                out of normal cases (generated masks only). `False`: thresholded, nothing else.
            output_type (`str`, defaults to `"pil"`): `"pil"`, `"np"` or `"pt"`.
            return_dict (`bool`, defaults to `True`): [`MaCDMPipelineOutput`], or else a tuple of its fields.
            callback_on_step_end (`Callable`, *optional*): Called as `f(pipe, step, timestep, callback_kwargs)` after each
                step; what it returns replaces the tensors named in `callback_on_step_end_tensor_inputs`.
            callback_on_step_end_tensor_inputs (`list[str]`): Of `latents` and `class_labels`.

        Returns:
            [`MaCDMPipelineOutput`] or `tuple`.

        Raises:
            ValueError: for arguments that do not go together, naming the value and what is allowed, and for a scheduler
                that cannot sample from this model.
        """
        if isinstance(callback_on_step_end, (PipelineCallback, MultiPipelineCallbacks)):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs

        # 1. Check, and bring what is given into one form.
        _check_same_sizes(image=image, anatomy_mask=anatomy_mask, lesion_mask=lesion_mask)
        guided = guidance_scale != 0 or classifier_free_guidance_scale != 1 or autoguidance_scale != 1
        process = self.check_scheduler(guided)
        size = self.unet.config.sample_size
        given = {}
        if image is not None:
            given[RADIOGRAPH] = radiographs_from(image, "image", size)
        if anatomy_mask is not None:
            given[ANATOMY_MASK] = masks_from(anatomy_mask, "anatomy_mask", size, keep_small=False)
        if lesion_mask is not None:
            given[LESION_MASK] = masks_from(lesion_mask, "lesion_mask", size, keep_small=True)
        self.check_inputs(
            given,
            strength,
            num_inference_steps,
            guidance_scale,
            guidance_interval,
            classifier_free_guidance_scale,
            autoguidance_scale,
            class_labels,
            output_type,
            callback_on_step_end_tensor_inputs,
        )
        labels = self._check_labels(class_labels)
        batch_size = self._batch_size(labels, given, generator, latents)
        labels = labels.expand(batch_size)  # [B]

        device = self._execution_device
        labels = labels.to(device)
        given = {c: tensor.expand(batch_size, -1, -1, -1).to(device) for c, tensor in given.items()}

        # 2. The clean joint sample as far as it is known, and its noise.
        clean = torch.zeros(batch_size, len(CHANNELS), size, size, device=device)  # [B, 3, H, W]
        for channel, tensor in given.items():
            clean[:, channel] = tensor[:, 0] * 2 - 1
        clean = to_signal(clean, self.unet.config)
        noise = self.prepare_latents(batch_size, size, generator, latents, device)  # [B, 3, H, W]

        # 3. Timesteps, and where to start.
        self.scheduler.set_timesteps(num_inference_steps, device=device)  # anew: multistep solvers keep state
        timesteps = self.scheduler.timesteps
        if _steps_back_evenly(self.scheduler) and self._num_train_timesteps % num_inference_steps:
            logger.warning(
                f"{type(self.scheduler).__name__} steps back by {self._num_train_timesteps} // num_inference_steps, whatever "
                f"its timesteps are: num_inference_steps={num_inference_steps} does not divide {self._num_train_timesteps} "
                "and is slightly wrong (the more so the larger it is); 25, 50, 100 or 250 are right."
            )
        if strength is None:
            kept = sorted(given)
            sample = noise * self.scheduler.init_noise_sigma
        else:
            kept = []
            begin = self._begin_index(strength, num_inference_steps)
            timesteps = timesteps[begin:]
            if hasattr(self.scheduler, "set_begin_index"):
                self.scheduler.set_begin_index(begin)
            sample = self.scheduler.add_noise(clean, noise, timesteps[:1].expand(batch_size))
        is_kept = torch.zeros(len(CHANNELS), dtype=torch.bool, device=device)
        is_kept[kept] = True
        is_kept = is_kept[:, None, None]  # [3, 1, 1]
        image_kept = RADIOGRAPH in kept
        masks_kept = ANATOMY_MASK in kept and LESION_MASK in kept

        # 4. Denoise.
        latents = sample
        prediction_type = self.scheduler.config.prediction_type
        step_arguments = self._step_arguments(generator, eta)
        self._interrupt = False
        self._num_timesteps = len(timesteps)
        with self.progress_bar(total=len(timesteps)) as progress_bar:
            for i, t in enumerate(timesteps):
                if self.interrupt:
                    continue
                abar = process.alphas_cumprod_at(t)
                model_input = self.scheduler.scale_model_input(latents, t)  # [B, 3, H, W]
                if kept:
                    # A channel whose timestep is 0 is fed clean; a lone mask shares its timestep with the generated one.
                    at_zero = torch.tensor([image_kept, masks_kept, masks_kept], device=device)[:, None, None]
                    at_level = abar**0.5 * clean + (1 - abar) ** 0.5 * noise
                    model_input = torch.where(is_kept, torch.where(at_zero, clean, at_level), model_input)
                conditions = {"timestep": torch.zeros_like(t) if image_kept else t}
                if image_kept or masks_kept:
                    conditions["mask_timestep"] = torch.zeros_like(t) if masks_kept else t

                prediction, variance = self._predict(self.unet, model_input, labels, conditions)
                if guided and in_guidance_interval(t, process.num_timesteps, guidance_interval):
                    eps = noise_of(prediction, model_input, abar, prediction_type)
                    # Each kind of guidance is an addition to the prediction, so they can be used together.
                    shift = torch.zeros_like(eps)
                    if classifier_free_guidance_scale != 1:
                        null_labels = torch.full_like(labels, self.unet.null_class_label)
                        other, _ = self._predict(self.unet, model_input, null_labels, conditions)
                        other = noise_of(other, model_input, abar, prediction_type)
                        shift += classifier_free_guided_noise(eps, other, classifier_free_guidance_scale) - eps
                    if autoguidance_scale != 1:
                        other, _ = self._predict(self.weak_unet, model_input, labels, conditions)
                        other = noise_of(other, model_input, abar, prediction_type)
                        shift += autoguided_noise(eps, other, autoguidance_scale) - eps
                    if guidance_scale != 0:
                        gradient = classifier_gradient(self.guidance_classifier, model_input, labels, **conditions)
                        shift += classifier_guided_noise(eps, gradient, abar, guidance_scale) - eps
                    prediction = prediction_of(eps + shift, model_input, abar, prediction_type)

                # The learned variance goes on to DDPM alone: other schedulers would take it for further channels.
                if variance is not None and i == len(timesteps) - 1:
                    # The last step ends at the clean sample, so no noise is added. DDPM leaves it out at t = 0 alone, where
                    # `timestep_spacing="trailing"` does not end; the lower bound of the variance is 0 there.
                    variance = torch.full_like(variance, -1.0)
                output = prediction if variance is None else torch.cat([prediction, variance], dim=1)
                latents = self.scheduler.step(output, t, latents, **step_arguments, return_dict=False)[0]

                if callback_on_step_end is not None:
                    tensors = {"latents": latents, "class_labels": labels}
                    chosen = {name: tensors[name] for name in callback_on_step_end_tensor_inputs}
                    changed = callback_on_step_end(self, i, t, chosen) or {}
                    latents = changed.pop("latents", latents)
                    labels = changed.pop("class_labels", labels)
                progress_bar.update()

        # 5. Back to images and masks.
        joint_sample = from_signal(torch.where(is_kept, clean, latents), self.unet.config)
        images, anatomy_masks, lesion_masks = (channel[:, None] for channel in split(joint_sample))  # [B, 1, H, W]
        if image_kept:
            images = given[RADIOGRAPH].clone()  # to the last bit
        anatomy_masks, lesion_masks = (anatomy_masks >= 0.5).float(), (lesion_masks >= 0.5).float()
        label_list = [label if label < self.unet.num_classes else None for label in labels.tolist()]
        if refine_masks:
            anatomy_masks, lesion_masks = _refine(anatomy_masks, lesion_masks, label_list, kept)

        self.maybe_free_model_hooks()
        fields = (*(to_output(x, output_type) for x in (images, anatomy_masks, lesion_masks)), label_list)
        return MaCDMPipelineOutput(*fields) if return_dict else fields

    def check_inputs(
        self,
        given: dict[int, torch.Tensor],
        strength: float | None,
        num_inference_steps: int,
        guidance_scale: float,
        guidance_interval: tuple[float, float],
        classifier_free_guidance_scale: float,
        autoguidance_scale: float,
        class_labels,
        output_type: str,
        callback_on_step_end_tensor_inputs: Sequence[str],
    ) -> None:
        """Raise `ValueError` with the offending value and the allowed ones. `given` maps channels to what was given."""
        names = [CHANNELS[channel] for channel in sorted(given)]
        if strength is not None:
            if not 0 < strength <= 1:
                raise ValueError(f"strength={strength} is not allowed: it is the noise level Z / T, in (0, 1].")
            if len(given) < len(CHANNELS):
                raise ValueError(
                    f"strength={strength} starts from a real case and needs image, anatomy_mask and lesion_mask; "
                    f"given: {', '.join(names) or 'none'}."
                )
        elif len(given) == len(CHANNELS):
            raise ValueError("image, anatomy_mask and lesion_mask are all given: nothing to generate without strength.")
        elif not self.unet.config.mask_timestep and (RADIOGRAPH in given or len(given) == 2):
            raise ValueError(
                f"This model was trained without a timestep for the masks (mask_timestep=False) and cannot keep what is "
                f"given: {', '.join(names)}. Generate pairs, or use strength."
            )
        if not isinstance(num_inference_steps, Integral) or not 1 <= num_inference_steps <= self._num_train_timesteps:
            raise ValueError(
                f"num_inference_steps={num_inference_steps} is not allowed: a whole number from 1 to "
                f"{self._num_train_timesteps} (the training timesteps)."
            )
        if not 0 <= guidance_scale < math.inf:
            raise ValueError(f"guidance_scale={guidance_scale} is not allowed: 0 is off, larger is stronger.")
        for name, scale in (
            ("classifier_free_guidance_scale", classifier_free_guidance_scale),
            ("autoguidance_scale", autoguidance_scale),
        ):
            if not math.isfinite(scale):
                raise ValueError(f"{name}={scale} is not allowed: a finite number, 1 is off.")
        if (
            not isinstance(guidance_interval, Sequence)
            or len(guidance_interval) != 2
            or not 0 <= guidance_interval[0] <= guidance_interval[1] <= 1
        ):
            raise ValueError(f"guidance_interval={guidance_interval} is not allowed: (lo, hi) with 0 <= lo <= hi <= 1.")
        if guidance_scale != 0 and self.guidance_classifier is None:
            raise ValueError(
                f"guidance_scale={guidance_scale} needs a guidance_classifier, which this pipeline lacks: train one with "
                "training/train_guidance_classifier.py, or set guidance_scale=0."
            )
        # A class that only one of the two knows would be steered towards nothing, or towards the null label.
        if guidance_scale != 0 and self.guidance_classifier.config.get("num_classes") not in (None, self.unet.num_classes):
            raise ValueError(
                f"The guidance_classifier knows {self.guidance_classifier.config.num_classes} classes and the unet "
                f"{self.unet.num_classes}: they must be the same."
            )
        if guidance_scale != 0 and _weighting(self.guidance_classifier) != _weighting(self.unet):
            raise ValueError(
                f"The guidance_classifier was trained with {_weighting(self.guidance_classifier)} and the unet with "
                f"{_weighting(self.unet)} (channel weights, mask weighting): both must be fed alike."
            )
        if autoguidance_scale != 1 and self.weak_unet is None:
            raise ValueError(
                f"autoguidance_scale={autoguidance_scale} needs a weak_unet (an early snapshot of the denoiser), which "
                "this pipeline lacks; set autoguidance_scale=1 to switch it off."
            )
        if autoguidance_scale != 1 and signal_weights(self.weak_unet.config) != signal_weights(self.unet.config):
            raise ValueError(
                f"The weak_unet was trained with {_weighting(self.weak_unet)} and the unet with {_weighting(self.unet)} "
                "(channel weights, mask weighting): their noisy samples are not the same."
            )
        for name, scale, off in (
            ("guidance_scale", guidance_scale, 0),
            ("classifier_free_guidance_scale", classifier_free_guidance_scale, 1),
        ):
            if scale != off and class_labels is None:
                raise ValueError(f"{name}={scale} steers towards a label: give class_labels, or set it to {off} (off).")
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type={output_type!r} is not known; allowed are {', '.join(OUTPUT_TYPES)}.")
        unknown = set(callback_on_step_end_tensor_inputs) - set(self._callback_tensor_inputs)
        if unknown:
            raise ValueError(
                f"callback_on_step_end_tensor_inputs has {sorted(unknown)}; allowed are {self._callback_tensor_inputs}."
            )

    def check_scheduler(self, guided: bool = False) -> ForwardProcess:
        """Return the process that the scheduler integrates, or raise `ValueError` with the scheduler's name and why it
        cannot sample from this model."""
        scheduler = self.scheduler
        name, config = type(scheduler).__name__, scheduler.config
        if name in REFUSED_SCHEDULERS:
            raise ValueError(f"{name} cannot sample from this model: {REFUSED_SCHEDULERS[name]}.")
        if getattr(scheduler, "alphas_cumprod", None) is None or getattr(scheduler, "betas", None) is None:
            raise ValueError(
                f"{name} cannot sample from this model: it does not integrate the variance-preserving process "
                "(betas, alphas_cumprod) that the denoiser was trained on."
            )
        prediction_type = config.get("prediction_type", "epsilon")
        if prediction_type not in PREDICTION_TYPES or config.get("use_flow_sigmas"):
            raise ValueError(
                f"{name} with prediction_type={prediction_type!r}, use_flow_sigmas={config.get('use_flow_sigmas')} cannot "
                f"sample from this model: allowed prediction types are {', '.join(PREDICTION_TYPES)}, without flow sigmas."
            )
        if self._trained_prediction_type not in (None, prediction_type):
            raise ValueError(
                f"{name} has prediction_type={prediction_type!r}, the denoiser was trained with "
                f"{self._trained_prediction_type!r}: make it with {name}.from_config(pipe.scheduler.config)."
            )
        trained, current = self._trained_alphas_cumprod, scheduler.alphas_cumprod
        if trained is not None and (
            trained.shape != current.shape or not torch.allclose(trained.cpu(), current.cpu(), rtol=1e-3, atol=1e-6)
        ):
            raise ValueError(
                f"{name} has another noise schedule than the denoiser was trained with: make it with "
                f"{name}.from_config(pipe.scheduler.config)."
            )
        process = ForwardProcess.from_scheduler(scheduler)
        if process.alphas_cumprod[-1] == 0 and (guided or prediction_type != "v_prediction"):
            raise ValueError(
                f"{name} with rescale_betas_zero_snr=True starts at pure noise, where the noise prediction says nothing "
                "about the sample: it works unguided with prediction_type='v_prediction' alone."
            )
        largest = max(signal_weights(self.unet.config) or [1.0])
        clips = config.get("clip_sample") and config.get("clip_sample_range", 1.0)
        if clips and clips < largest:
            raise ValueError(
                f"{name} with clip_sample=True, clip_sample_range={clips} would cut off the clean sample, which reaches "
                f"{largest} (channel_weights with mask_weighting='signal'): use clip_sample_range={largest}."
            )
        if self._takes_variance and not self.unet.learned_variance:
            raise ValueError(
                f"{name} has variance_type={config.variance_type!r}, but the network has no learned variance "
                f"(out_channels={self.unet.config.out_channels}): use variance_type='fixed_small'."
            )
        if isinstance(scheduler, (DDPMScheduler, DDPMParallelScheduler)) and config.variance_type == "learned":
            raise ValueError(
                f"{name} has variance_type='learned', but the network predicts the interpolation between the bounds "
                "(Improved DDPM eq. 15): use variance_type='learned_range'."
            )
        return process

    def prepare_latents(
        self,
        batch_size: int,
        size: int,
        generator: torch.Generator | list[torch.Generator] | None,
        latents: torch.Tensor | None,
        device: torch.device,
    ) -> torch.Tensor:
        """Standard normal noise `[B, 3, H, W]`, float32: `latents`, or drawn from `generator`."""
        shape = (batch_size, len(CHANNELS), size, size)
        if latents is None:
            return randn_tensor(shape, generator=generator, device=device, dtype=torch.float32)
        if tuple(latents.shape) != shape:
            raise ValueError(f"latents has shape {tuple(latents.shape)}; this call needs {shape}.")
        return latents.to(device, torch.float32)

    @property
    def _num_train_timesteps(self) -> int:
        return self.scheduler.config.num_train_timesteps

    @property
    def _takes_variance(self) -> bool:
        """Whether the scheduler's step uses the learned variance: others ignore it, broadcast it or slice it off."""
        is_ddpm = isinstance(self.scheduler, (DDPMScheduler, DDPMParallelScheduler))
        return is_ddpm and self.scheduler.config.variance_type == "learned_range"

    def _predict(self, unet, model_input, labels, conditions) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Prediction `[B, 3, H, W]` and, for a scheduler that uses it, the learned variance `[B, 3, H, W]`; float32."""
        if unet.config.num_class_embeds is not None:
            conditions = {**conditions, "class_labels": labels}
        output = unet(model_input.to(unet.dtype), **conditions).sample.float()  # [B, 3 or 6, H, W]
        if not unet.learned_variance:
            return output, None
        prediction, variance = output.chunk(2, dim=1)
        return prediction, variance if self._takes_variance else None

    def _check_labels(self, class_labels) -> torch.Tensor:
        """Labels -> `[B]` int64 with the null label for "not known"; refuses others than the trained ones."""
        null_label = self.unet.null_class_label
        if class_labels is None:
            return torch.tensor([null_label or 0])
        if isinstance(class_labels, (torch.Tensor, np.ndarray)):
            class_labels = class_labels.tolist()
        if not isinstance(class_labels, Sequence):
            class_labels = [class_labels]
        if null_label is None:
            raise ValueError(f"class_labels={class_labels} were given to a model that was trained without classes.")
        try:  # whatever can stand for a whole number: also numpy's integers and single tensors
            labels = [null_label if label is None else operator.index(label) for label in class_labels]
        except TypeError:
            labels = []
        if not labels or not all(0 <= label <= null_label for label in labels):
            raise ValueError(
                f"class_labels={class_labels} is not allowed: whole numbers from 0 to {null_label - 1}, "
                f"or {null_label} (None) for not known."
            )
        return torch.tensor(labels)

    def _batch_size(self, labels, given, generator, latents) -> int:
        """The common number of samples; whatever there is once is used for all of them."""
        counts = {"class_labels": len(labels)}
        counts |= {CHANNELS[channel]: len(tensor) for channel, tensor in given.items()}
        generators = generator if isinstance(generator, list) else [generator]
        if not all(item is None or isinstance(item, torch.Generator) for item in generators):
            raise ValueError(f"generator={generator} is not allowed: a torch.Generator or a list of them, one for each sample.")
        if isinstance(generator, list):
            counts["generator"] = len(generator)
        if latents is not None:
            counts["latents"] = len(latents)
        batch_size = max(counts.values())
        wrong = {name: count for name, count in counts.items() if count not in (1, batch_size)}
        if wrong or (isinstance(generator, list) and len(generator) != batch_size):
            raise ValueError(
                f"The numbers of samples do not agree: {', '.join(f'{n} {c}' for n, c in counts.items())}. Each must be "
                f"1 or {batch_size}, a list of generators exactly {batch_size}."
            )
        return batch_size

    def _begin_index(self, strength: float, num_inference_steps: int) -> int:
        """Index of the first timestep of the schedule that is at or below the level `Z = strength * T`.

        Second-order schedulers visit each timestep twice; sampling must begin at the first visit.
        """
        if isinstance(self.scheduler, PNDMScheduler):
            raise ValueError(
                f"{type(self.scheduler).__name__} cannot start from a real case: its warm-up steps are those of pure noise; "
                "use another scheduler."
            )
        order = self.scheduler.order
        levels = self.scheduler.timesteps[::order].double()
        allowed = (levels <= strength * self._num_train_timesteps).nonzero()
        if not len(allowed):
            raise ValueError(
                f"strength={strength} lies below the lowest level of the schedule with "
                f"num_inference_steps={num_inference_steps}: use more steps, or a strength of at least "
                f"{levels.min().item() / self._num_train_timesteps:.4f}."
            )
        return int(allowed[0]) * order

    def _step_arguments(self, generator, eta: float) -> dict[str, Any]:
        """`generator` and `eta` for the schedulers whose step takes them."""
        accepted = inspect.signature(self.scheduler.step).parameters
        return {name: value for name, value in {"generator": generator, "eta": eta}.items() if name in accepted}


def _steps_back_evenly(scheduler) -> bool:
    """Whether `step` goes from t to t - T // n instead of to the next timestep of the schedule."""
    return type(scheduler).__name__.startswith(("DDIM", "DDPM"))


def _check_same_sizes(**given) -> None:
    """PIL images are padded and resampled one by one: of different sizes they would not lie on each other."""
    sizes = {}
    for name, value in given.items():
        for item in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(item, PIL.Image.Image):
                sizes.setdefault(item.size, name)
    if len(sizes) > 1 and len(set(sizes.values())) > 1:
        raise ValueError(
            f"{', '.join(f'{name} has {w}x{h}' for (w, h), name in sizes.items())} pixels; a radiograph and its masks must "
            "have the same size."
        )


def _weighting(model) -> tuple:
    return tuple(model.config.channel_weights), model.config.mask_weighting


def _refine(anatomy_masks, lesion_masks, labels, kept) -> tuple[torch.Tensor, torch.Tensor]:
    """Refine the generated masks, `[B, 1, H, W]` in {0, 1}; masks that were given are kept as they are."""
    pairs = []
    for anatomy, lesion, label in zip(
        anatomy_masks.cpu().bool().numpy(), lesion_masks.cpu().bool().numpy(), labels, strict=True
    ):
        anatomy, lesion = anatomy[0], lesion[0]
        if ANATOMY_MASK in kept and LESION_MASK in kept:
            pass
        elif LESION_MASK in kept:
            anatomy = refine_mask(anatomy) | lesion
        elif ANATOMY_MASK in kept:
            lesion = np.zeros_like(lesion) if label == NORMAL_LABEL else refine_mask(lesion & anatomy) & anatomy
        else:
            anatomy, lesion = refine_masks(anatomy, lesion, label)
        pairs.append(np.stack([anatomy, lesion]))
    refined = torch.from_numpy(np.stack(pairs)).to(anatomy_masks)  # [B, 2, H, W]
    return refined[:, :1], refined[:, 1:]
