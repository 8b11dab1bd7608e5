"""Publishes, downloads and loads FMCS datasets in the format of Hugging Face; start with ``publish``."""
