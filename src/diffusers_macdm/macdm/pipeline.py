"""`MaCDMPipeline`: new pairs, variations of real cases, masks -> image and image -> masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from diffusers import DDPMScheduler, DiffusionPipeline, ModelMixin, pipelines
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.utils.torch_utils import randn_tensor

from .draws import Draws  # noqa: F401  (of a folder, diffusers copies only the modules that this file itself names)
from .forward_process import ForwardProcess
from .guidance import Guidance, GuidedDenoiser
from .image_processor import OUTPUT_TYPES, to_output
from .inputs import Case, check_given, check_unet, common_batch_size, given_channels, label_tensor, region_from
from .joint_sample import ANATOMY_MASK, CHANNELS, LESION_MASK, RADIOGRAPH, absent_channels, from_signal, split, to_signal
from .pipeline_output import MaCDMPipelineOutput
from .refinement import refine_batch
from .schedulers import (
    TrainedSchedule,
    begin_index,
    check_output,
    check_process,
    check_steps,
    keep_values,
    set_timesteps,
    step_arguments,
    take_step,
    takes_learned_variance,
)


# Arguments of `from_pretrained` that say where a checkpoint is: the same for each of its files.
HUB_ARGUMENTS = ("cache_dir", "force_download", "proxies", "local_files_only", "token", "revision")


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
        check_unet(unet)
        if scheduler is not None:
            keep_values(scheduler)
        self.register_modules(unet=unet, scheduler=scheduler, guidance_classifier=guidance_classifier, weak_unet=weak_unet)
        self._trained = TrainedSchedule.of(scheduler)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        """Load a pipeline from a folder or from the Hub, with the arguments of [`~DiffusionPipeline.from_pretrained`].

        A `scheduler` given in place of the checkpoint's own is held to the noise schedule and prediction type that stand in the
        checkpoint, as one that is assigned later is. A checkpoint may come from anybody: only classes of MaC-DM and schedulers
        of diffusers are loaded from it, with weights in safetensors that fit their configurations. Others can be given.

        Raises:
            FileNotFoundError: when a file of the checkpoint is missing.
            ValueError: for a checkpoint that cannot be loaded safely, and for a scheduler that cannot sample from this model.
        """
        kwargs["use_safetensors"] = True
        method = getattr(pipelines, "macdm", None)  # this package, which a repository's copy of this file is without
        if method is not None and kwargs.get("custom_pipeline") is None:
            folder = Path(pretrained_model_name_or_path)
            folder = folder if folder.is_dir() else Path(cls.download(str(pretrained_model_name_or_path), **kwargs))
            method.check_folder(folder, kwargs.keys(), kwargs.get("variant"))
        pipe = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        where = {name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs}
        replaced = kwargs.get("scheduler") is not None
        if replaced and cls.load_config(pretrained_model_name_or_path, **where).get("scheduler", [None])[0] is not None:
            config = DDPMScheduler.load_config(pretrained_model_name_or_path, subfolder="scheduler", **where)
            pipe._trained = TrainedSchedule.from_config(config)
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

    @property
    def guidance_scale(self) -> float:
        """Scale of classifier guidance of the latest call; a callback sets `pipe._guidance_scale` for the steps that follow."""
        return self._guidance_scale

    @torch.no_grad()
    def __call__(
        self,
        class_labels: int | Sequence[int] | torch.Tensor | None = None,
        image: PIL.Image.Image | np.ndarray | torch.Tensor | list | None = None,
        anatomy_mask: PIL.Image.Image | np.ndarray | torch.Tensor | list | None = None,
        lesion_mask: PIL.Image.Image | np.ndarray | torch.Tensor | list | None = None,
        mask_image: PIL.Image.Image | np.ndarray | torch.Tensor | list | None = None,
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
        - `image`, `anatomy_mask` and `mask_image`: an insertion. Inside the region `mask_image` film and lesion mask are
          painted anew as `class_labels` say (a lesion into a normal film), outside nothing changes; with `lesion_mask`, the
          lesion is where it says;
        - one mask of the two: the missing one and the radiograph; the given mask is noised to the current level at every
          step (arXiv 2011.13456, app. I.2), since the network has one timestep for both masks.

        A mask that the training set lacked (`masks` in the configuration of the unet names the others) is neither taken nor
        made; without lesion outlines nothing can be inserted.

        Args:
            class_labels (`int`, list or `torch.Tensor` `[B]`, *optional*):
                In [0, number of classes); the null label or `None` stands for "not known".
            image (*optional*): Radiograph(s): PIL image (8- or 16-bit grayscale, resampled to the model's size), array
                `[H, W]`, `[B, H, W]`, `[B, H, W, 1]` or tensor `[H, W]`, `[B, H, W]`, `[B, 1, H, W]` of the model's size in
                [0, 1] (uint8 and uint16: full range), or a list of these.
            anatomy_mask, lesion_mask (*optional*): Mask(s) in the same forms, 0 / non-zero.
            mask_image (*optional*): Region(s) that are painted anew, masks in the same forms, non-zero inside (the name
                that diffusers' inpainting pipelines have for it).
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
            output_type (`str`, defaults to `"pil"`): `"pil"`, `"np"`, `"pt"` or, for the channels as they are sampled (in
                [-1, 1] up to the sampler's error, masks neither thresholded nor refined), `"latent"`.
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

        # 1. Check what is asked for, and bring it into one form.
        check_unet(self.unet)
        self._guidance_scale = guidance_scale
        guidance = Guidance(guidance_scale, guidance_interval, classifier_free_guidance_scale, autoguidance_scale)
        process = self.check_scheduler(guidance.is_on)
        size = self.unet.config.sample_size
        given = given_channels(image, anatomy_mask, lesion_mask, size)  # [B or 1, 1, H, W] each
        region = region_from(mask_image, size, image=image, anatomy_mask=anatomy_mask, lesion_mask=lesion_mask)
        callback_inputs = callback_on_step_end_tensor_inputs
        inserts = region is not None
        self.check_inputs(given, strength, num_inference_steps, class_labels, guidance, output_type, callback_inputs, inserts)
        prediction_type = self.scheduler.config.prediction_type
        networks = (self.guidance_classifier, self.weak_unet)
        denoiser = GuidedDenoiser(self.unet, process, prediction_type, guidance, *networks)
        labels = label_tensor(class_labels, self.unet.null_class_label)
        batch_size = common_batch_size(labels, given, generator, latents, region)
        labels = labels.expand(batch_size).to(self._execution_device)  # [B]

        # 2. The joint sample as far as it is known, and its noise.
        case = self.prepare_case(given, batch_size, strength, region)
        noise = self.prepare_latents(batch_size, generator, latents)  # [B, 3, H, W]

        # 3. Timesteps, and the noisy sample to start from.
        timesteps = self.prepare_timesteps(num_inference_steps, strength)
        if strength is None:
            latents = noise * self.scheduler.init_noise_sigma
        else:
            latents = self.scheduler.add_noise(case.clean, noise, timesteps[:1].expand(batch_size))

        # 4. Denoise.
        further = step_arguments(self.scheduler, generator=generator, eta=eta)
        self._interrupt, self._num_timesteps = False, len(timesteps)
        with self.progress_bar(total=len(timesteps)) as progress_bar:
            for i, t in enumerate(timesteps):
                if self.interrupt:
                    continue
                denoiser = denoiser.with_guidance_scale(self.guidance_scale)
                model_input, conditions = self.prepare_model_input(latents, t, case, noise, process)
                prediction, variance = denoiser(model_input, t, labels, **conditions)  # [B, 3, H, W] each
                output = self.scheduler_input(prediction, variance)
                is_last = i == len(timesteps) - 1
                latents = take_step(self.scheduler, output, t, latents, is_last, **further)  # [B, 3, H, W]

                if callback_on_step_end is not None:
                    tensors = {"latents": latents, "class_labels": labels}
                    changed = callback_on_step_end(self, i, t, {name: tensors[name] for name in callback_inputs}) or {}
                    latents = changed.pop("latents", latents)
                    labels = changed.pop("class_labels", labels)
                progress_bar.update()

        # 5. Back to images and masks.
        fields = self.decode(latents, case, labels, refine_masks, output_type)
        self.maybe_free_model_hooks()
        return MaCDMPipelineOutput(*fields) if return_dict else fields

    def check_scheduler(self, guided: bool = False) -> ForwardProcess:
        """Return the process that the scheduler integrates.

        Raises:
            ValueError: when the scheduler cannot sample from this model, with its name and the reason.
        """
        process = check_process(self.scheduler, self._trained, guided)
        check_output(self.scheduler, self.unet)
        return process

    def check_inputs(
        self,
        given: dict[int, torch.Tensor],
        strength: float | None,
        num_inference_steps: int,
        class_labels,
        guidance: Guidance,
        output_type: str,
        callback_on_step_end_tensor_inputs: Sequence[str],
        inserts: bool = False,
    ) -> None:
        """Raise `ValueError` with the offending value and the allowed ones. `given` maps channels to what was given."""
        check_given(given, strength, inserts, self.unet.config)
        check_steps(self.scheduler, num_inference_steps)
        for name, off in (("guidance_scale", 0), ("classifier_free_guidance_scale", 1)):
            scale = getattr(guidance, name)
            if scale != off and class_labels is None:
                raise ValueError(f"{name}={scale} steers towards a label: give class_labels, or set it to {off} (off).")
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type={output_type!r} is not known; allowed are {', '.join(OUTPUT_TYPES)}.")
        unknown = set(callback_on_step_end_tensor_inputs) - set(self._callback_tensor_inputs)
        if unknown:
            raise ValueError(
                f"callback_on_step_end_tensor_inputs has {sorted(unknown)}; allowed are {self._callback_tensor_inputs}."
            )

    def prepare_case(
        self,
        given: dict[int, torch.Tensor],
        batch_size: int,
        strength: float | None,
        region: torch.Tensor | None = None,
    ) -> Case:
        """Join what is given to the clean joint sample; with `strength` it is where sampling starts, else it is kept.

        With a `region`, bool `[B or 1, 1, H, W]`, the film is kept outside of it.
        """
        device, size = self._execution_device, self.unet.config.sample_size
        given = {c: tensor.expand(batch_size, -1, -1, -1).to(device) for c, tensor in given.items()}
        clean = torch.zeros(batch_size, len(CHANNELS), size, size, device=device)  # [B, 3, H, W]
        absent = absent_channels(self.unet.config)
        clean[:, list(absent)] = -1
        for channel, tensor in given.items():
            clean[:, channel] = tensor[:, 0] * 2 - 1
        if region is None:
            kept = frozenset(given if strength is None else ()).union(absent)
            return Case(to_signal(clean, self.unet.config), given, kept)
        if LESION_MASK not in given:
            clean[:, LESION_MASK] = -1  # outside the region there is none
        region = region.expand(batch_size, -1, -1, -1).to(device)
        return Case(to_signal(clean, self.unet.config), given, frozenset(given).union(absent) - {RADIOGRAPH}, region)

    def prepare_latents(
        self, batch_size: int, generator: torch.Generator | list[torch.Generator] | None, latents: torch.Tensor | None
    ) -> torch.Tensor:
        """Return standard normal noise `[B, 3, H, W]`, float32: `latents`, or drawn from `generator`."""
        size, device = self.unet.config.sample_size, self._execution_device
        shape = (batch_size, len(CHANNELS), size, size)
        if latents is None:
            return randn_tensor(shape, generator=generator, device=device, dtype=torch.float32)
        if tuple(latents.shape) != shape:
            raise ValueError(f"latents has shape {tuple(latents.shape)}; this call needs {shape}.")
        return latents.to(device, torch.float32)

    def prepare_timesteps(self, num_inference_steps: int, strength: float | None) -> torch.Tensor:
        """Set the scheduler to its timesteps and return those to visit; `strength` leaves out the first ones."""
        scheduler = self.scheduler
        set_timesteps(scheduler, num_inference_steps, self._execution_device)
        if strength is None:
            return scheduler.timesteps
        begin = begin_index(scheduler, strength, num_inference_steps)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(begin)
        return scheduler.timesteps[begin:]

    def prepare_model_input(
        self, latents: torch.Tensor, t: torch.Tensor, case: Case, noise: torch.Tensor, process: ForwardProcess
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return what the networks are fed at level `t`: the sample `[B, 3, H, W]`, and its timesteps by their names."""
        model_input = self.scheduler.scale_model_input(latents, t)  # [B, 3, H, W]
        image_kept, masks_kept = case.image_kept, case.masks_kept
        if case.region is not None:
            model_input = torch.where(case.is_kept, case.clean, model_input)
        elif case.kept:
            # A channel whose timestep is 0 is fed clean; a lone mask shares its timestep with the generated one.
            abar = process.alphas_cumprod_at(t)
            at_zero = torch.tensor([image_kept, masks_kept, masks_kept], device=latents.device)[:, None, None]
            at_level = abar**0.5 * case.clean + (1 - abar) ** 0.5 * noise  # [B, 3, H, W]
            model_input = torch.where(case.is_kept, torch.where(at_zero, case.clean, at_level), model_input)
        timesteps = {"timestep": torch.zeros_like(t) if image_kept else t}
        if image_kept or masks_kept:
            timesteps["mask_timestep"] = torch.zeros_like(t) if masks_kept else t
        return model_input, timesteps

    def scheduler_input(self, prediction: torch.Tensor, variance: torch.Tensor | None) -> torch.Tensor:
        """Join the learned variance to the prediction for a scheduler that uses it: `[B, 3 or 6, H, W]`."""
        # It goes on to DDPM alone: other schedulers would take it for further channels.
        if variance is None or not takes_learned_variance(self.scheduler):
            return prediction
        return torch.cat([prediction, variance], dim=1)

    def decode(self, latents: torch.Tensor, case: Case, labels: torch.Tensor, refine_masks: bool, output_type: str) -> tuple:
        """Turn `[B, 3, H, W]` into radiographs, refined masks and labels: the fields of [`MaCDMPipelineOutput`]."""
        latents = torch.where(case.is_kept, case.clean, latents)
        if not latents.isfinite().all():
            # Images of them would be black, and look like a result.
            raise ValueError(
                f"The samples of {type(self.scheduler).__name__} in {self.num_timesteps} steps of {self.unet.dtype} are not "
                "finite: use weights that are, another scheduler, float32, or less guidance."
            )
        label_list = [label if label < self.unet.num_classes else None for label in labels.tolist()]
        absent = absent_channels(self.unet.config)
        if output_type == "latent":
            return (*(None if c in absent else latents[:, c : c + 1] for c in range(len(CHANNELS))), label_list)
        joint_sample = from_signal(latents, self.unet.config)
        images, *soft_masks = (channel[:, None] for channel in split(joint_sample))  # [B, 1, H, W] each
        if RADIOGRAPH in case.given and (case.image_kept or case.region is not None):
            given = case.given[RADIOGRAPH]  # to the last bit
            images = given.clone() if case.region is None else torch.where(case.region, images, given)
        # None, not an empty mask, which would say that there is nothing.
        masks = [None if c in absent else (soft >= 0.5).float() for c, soft in enumerate(soft_masks, start=ANATOMY_MASK)]
        if refine_masks:
            masks = refine_batch(*masks, label_list, case.kept)
        return (*(None if x is None else to_output(x, output_type) for x in (images, *masks)), label_list)
