"""What the loader makes of the files of one case, composed of the functions that it is to use."""

import numpy as np
import torch

from diffusers_macdm.macdm.image_processor import mask_array, radiograph_array, resize_case
from diffusers_macdm.macdm.joint_sample import join


def joint_sample_of(radiograph, anatomy, lesion, size):
    """Return the joint sample, float32 `[3, size, size]`, of three PIL images."""
    case = resize_case(radiograph_array(radiograph), mask_array(anatomy), mask_array(lesion), size)
    return join(*(torch.from_numpy(np.ascontiguousarray(array)) for array in case))
