"""Stages that several methods go through, a module for each kind.

A method never imports a method; what two of them do alike stands here, and is
imported from its module.

- `heads`: a backbone under a new head, and steps shared out to two stages.
- `weights`: weights that train in part, stay near their start, or are merged.
- `streams`: one model of two tasks, or of a task and the source's own answers.
- `fusion`: several models side by side, their features or their beliefs.
- `teachers`: a teacher for the target, and a student that learns from it.
- `domains`: one network for two domains, trained on the labels of the source.
- `alignment`: frozen features of two domains, mapped onto each other.
- `rules`: what a rule on the source's answers says of an image.
"""
