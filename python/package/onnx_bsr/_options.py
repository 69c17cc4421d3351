"""Keyword arguments as the program's flags."""

import difflib
import os
from collections.abc import Mapping

from . import _native

# What is for the terminal, and what a parameter of its own stands for.
_NOT_OPTIONS = {"json", "quiet", "verbose", "help", "version"}


class Flag:
    """A flag of the program."""

    def __init__(self, name, text, is_switch, repeats):
        self.text = f"--{name}"
        self.keyword = name.replace("-", "_")
        self.help = " ".join(text.split())
        self.is_switch = is_switch
        self.repeats = repeats


def flags(command):
    """The flags of a command by keyword; None is the main job."""
    found = (Flag(*parts) for parts in _native.flags(command))
    return {flag.keyword: flag for flag in found if flag.keyword not in _NOT_OPTIONS}


def arguments(function, known, options):
    """The command line's part for options that were given."""
    line = []
    for keyword, value in options.items():
        flag = known.get(keyword)
        if flag is None:
            near = difflib.get_close_matches(keyword, known, 1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise TypeError(f"{function}() got an unexpected keyword argument '{keyword}'{hint}")
        if value is None or value is False:
            continue
        if value is True:
            line.append(flag.text)
        elif flag.is_switch:
            raise TypeError(f"{function}(): '{keyword}' is True or False, not {value!r}")
        else:
            line += [f"{flag.text}={text}" for text in _texts(keyword, flag, value)]
    return line


def _texts(keyword, flag, value):
    """The value as typed: several where the flag repeats."""
    if keyword == "shape":
        pairs = value.items() if isinstance(value, Mapping) else [_pair(pair) for pair in _several(value)]
        return [f"{name}={_size(dims)}" for name, dims in pairs]
    if keyword == "image_size":
        return [_size(value)]
    if flag.repeats:
        return [_text(part) for part in _several(value)]
    if isinstance(value, (list, tuple, set, frozenset)) or hasattr(value, "tolist"):
        parts = value.tolist() if hasattr(value, "tolist") else value
        return [",".join(map(_text, parts)) if isinstance(parts, (list, tuple, set, frozenset)) else _text(parts)]
    return [_text(value)]


def _several(value):
    return [value] if isinstance(value, (str, bytes, os.PathLike)) else list(value)


def _pair(text):
    if isinstance(text, str):
        name, _, dims = text.rpartition("=")
        return name, dims
    name, dims = text
    return name, dims


def _size(dims):
    return dims if isinstance(dims, str) else "x".join(map(str, dims)) if hasattr(dims, "__iter__") else str(dims)


def _text(value):
    return os.fsdecode(value) if isinstance(value, (str, bytes, os.PathLike)) else str(value)
