"""The schemas of docs/, to hold what is really sent against them."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from tests.support.documents import DOCS

SHARED = "schemas.yaml"


@functools.cache
def read(path: Path) -> Any:
    """A YAML file; not to be changed."""
    return yaml.load(path.read_text("utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


@functools.cache
def _registry() -> Registry[Any]:
    return Registry().with_resource(SHARED, DRAFT202012.create_resource(read(DOCS / SHARED)))


def faults(schema: Any, value: Any) -> list[str]:
    """What is wrong with a value; the schema may refer to schemas.yaml."""
    return [error.message for error in Draft202012Validator(schema, registry=_registry()).iter_errors(value)]


def shared(name: str) -> dict[str, str]:
    """The schema of that name in schemas.yaml."""
    return {"$ref": f"{SHARED}#/{name}"}
