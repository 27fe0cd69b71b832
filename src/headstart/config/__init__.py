"""Typed settings, one file per group of conf/. Defaults live in conf/."""
