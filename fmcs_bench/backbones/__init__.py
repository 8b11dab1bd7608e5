"""Classifiers that are split in two: images to feature maps, feature maps to logits.

In: the name of a timm, torchvision or own network, with options. Out: a ``Backbone``, whose maps are [B, D, H, W].
Start with ``create``; ``dueheadnet`` has the network with two heads, ``gradcam`` its saliency maps.
"""
