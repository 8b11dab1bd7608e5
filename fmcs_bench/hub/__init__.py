"""Publishes FMCS datasets as Hugging Face dataset repositories, and downloads and loads them."""
