"""Builds the C core with cffi; everything else is in pyproject.toml."""

import sysconfig

from setuptools import setup

# cffi compiles against the limited API by itself on GIL builds; the wheel's tag must be asked for.
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))

setup(
    cffi_modules=["native/build.py:ffibuilder"],
    options={} if FREE_THREADED else {"bdist_wheel": {"py_limited_api": "cp311"}},
)
