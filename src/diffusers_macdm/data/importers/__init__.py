"""From the files of a lab to the project's layout: films with masks, COCO outlines, DICOM, regions of interest.

A reader (`folder`, `coco`, `dicom`) says of each film where its image and its masks are; `write` decodes them by the one
decoder, leaves out what cannot be used, by name and reason, and writes the rest. Import from the modules.
"""
