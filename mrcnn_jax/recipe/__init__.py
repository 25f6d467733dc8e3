"""A preset for a prepared data set and a machine: sizes, anchors, slots, network and schedule, each with its reason."""
