"""Reading, checking, splitting, augmenting and (for the phantom) making data sets of radiographs with two masks.

Import from the modules: `diffusers_macdm.data.loading`, ...
"""
