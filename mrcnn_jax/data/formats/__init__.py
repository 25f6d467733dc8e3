"""Annotation formats other than a COCO file: each is converted to COCO's entries, which the COCO reader checks.

`reader.format_splits` recognises the format of a folder or an archive and returns a source for each split.
"""
