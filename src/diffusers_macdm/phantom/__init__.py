"""The embedded phantom: procedural frontal radiographs of the distal tibia of infants, with exact masks.

It stands in for clinical films in demos and tests: nothing is downloaded and no patient is involved. A case is
computed the way a film is made. Every structure (leg, cortical shell, marrow, ossification centres) has a thickness
along the beam, thickness times attenuation is summed per ray, quantum noise is added to the transmitted intensity and
a display curve maps attenuation to gray. Cortex appears as a bright line on both sides of a shaft because the ray
passes a tube's wall lengthwise there, not because a line was drawn.

Lesions follow the description of classic metaphyseal lesions of the distal tibia in Kleinman and Marks, "A regional
approach to classic metaphyseal lesions in abused infants: the distal tibia", AJR 166:1207-1212, 1996: the corner
fracture is a tall triangular fragment, most often medial, where the fracture undercuts the bone collar; the
bucket-handle fracture crosses the metaphysis just above the growth plate and leaves a crescent of bone parallel to it.

Coordinates: `x` runs from medial to lateral, `s` along the shaft of the tibia, positive towards the knee, with `s = 0`
at the metaphyseal end (the growth plate). The unit is half of the image side. The phantom is no model of anatomy or of
injury to measure on: proportions are plausible, not sampled from a population.
"""

from __future__ import annotations

from typing import Any


__all__ = ["PhantomCase", "phantom_case", "write_phantom"]

_MODULES = {"PhantomCase": "film", "phantom_case": "film", "write_phantom": "write"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
