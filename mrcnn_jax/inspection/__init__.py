"""Finding what is wrong with prepared data before a training does: the checks behind `mrcnn inspect-data`."""
