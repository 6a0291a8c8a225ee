"""Formats, splits and synthetic makers: everything between files on disk and arrays, and nothing about networks.

This package answers to the name `datasets` because the repository root comes first on the import path. Hugging
Face publishes another package of that name; it cannot be imported here (nor anything that needs it, such as
`flwr-datasets`), and module names in this folder avoid those of that package.
"""
