"""What is in it: a bill of materials (CycloneDX 1.6, JSON) for each lock that somebody runs, in build/sbom.

Names, versions, hashes and who needs whom come from the lock; licences from what is installed here, which has the same
pins. The same lock gives the same bytes: there is no time in it, and its serial number is made from what is in it.
Each is checked against CycloneDX's own schema.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import sys
import uuid
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema_rs
from cyclonedx import schema as cyclonedx_schema
from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, Property, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

REPOSITORY = Path(__file__).resolve().parent.parent
# What is run: the plain installation, and the container's image.
LOCKS = ("serve", "container")
PACKAGE = "samvad-sessions"
_PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^ ;\\]+)(?: ; (?P<marker>[^\\]+?))?\s*\\?$")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_LICENCE_CHARS_MAX = 100  # more is no name, but the licence itself
_OSI = "License :: OSI Approved :: "


class Pin(NamedTuple):
    """A package of a lock: for whom it is there, and under which condition (a marker)."""

    name: str
    version: str
    marker: str | None
    hashes: list[str]
    needed_by: list[str]


def pins(lock: str) -> list[Pin]:
    """What a lock holds; ValueError for a line that is not understood, so that nothing is left out silently."""
    found: list[Pin] = []
    in_via = False
    for number, line in enumerate(lock.splitlines(), 1):
        text = line.strip()
        if pin := _PIN.match(line):
            found.append(Pin(pin["name"], pin["version"], pin["marker"], [], []))
            in_via = False
        elif digest := _HASH.match(text):
            found[-1].hashes.append(digest[1])
        elif text.startswith("# via"):
            in_via = True
            found[-1].needed_by.extend(filter(None, [text.removeprefix("# via").strip()]))
        elif in_via and line.startswith("    #   "):
            found[-1].needed_by.append(text.removeprefix("#").strip())
        elif text and not text.startswith("#"):
            raise ValueError(f"line {number} of the lock is not understood: {text}")
    return found


def bill(lock: str, version: str) -> Bom:
    """The bill of materials of a lock."""
    held = pins(lock)
    root = Component(
        name=PACKAGE, version=version, type=ComponentType.APPLICATION, **_named(PACKAGE, version)
    )
    root.licenses.update(_licences(PACKAGE))
    components = {pin.name: _component(pin) for pin in held}
    bom = Bom(serial_number=uuid.uuid5(uuid.NAMESPACE_OID, f"{PACKAGE} {version}\n{lock}"))
    bom.metadata.timestamp = None  # type: ignore[assignment]
    bom.metadata.component = root
    bom.components.update(components.values())
    needs: dict[str, list[Component]] = {name: [] for name in (PACKAGE, *components)}
    for pin in held:
        for by in pin.needed_by:
            owner = by.partition(" ")[0].partition("[")[0]
            needs[owner if owner in needs else PACKAGE].append(components[pin.name])
    for name, wanted in needs.items():
        bom.register_dependency(root if name == PACKAGE else components[name], wanted)
    return bom


def _named(name: str, version: str) -> dict[str, Any]:
    purl = PackageURL("pypi", None, name.lower(), version)
    return {"purl": purl, "bom_ref": purl.to_string()}


def _component(pin: Pin) -> Component:
    named = _named(pin.name, pin.version)
    component = Component(name=pin.name, version=pin.version, type=ComponentType.LIBRARY, **named)
    component.licenses.update(_licences(pin.name, pin.version))
    hashes = [HashType(alg=HashAlgorithm.SHA_256, content=each) for each in pin.hashes]
    files = ExternalReference(
        type=ExternalReferenceType.DISTRIBUTION, url=XsUri(named["bom_ref"]), hashes=hashes
    )
    component.external_references.add(files)
    if pin.marker is not None:
        component.properties.add(Property(name="samvad:marker", value=pin.marker))
    return component


def _licences(name: str, version: str | None = None) -> list[Any]:
    try:
        found = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return []  # of another platform
    if version is not None and found.version != version:
        return []
    factory = LicenseFactory()
    expression = found.metadata.get("License-Expression")
    if expression:
        return [factory.make_with_expression(expression)]
    text = found.metadata.get("License") or ""
    if 0 < len(text) <= _LICENCE_CHARS_MAX and "\n" not in text:
        return [factory.make_with_name(text)]
    classifiers = [each for each in found.metadata.get_all("Classifier") or () if each.startswith(_OSI)]
    return [factory.make_with_name(each.removeprefix(_OSI)) for each in sorted(classifiers)]


def written(bom: Bom) -> str:
    """The document; ValueError where it is not as the schema of CycloneDX says."""
    text = JsonV1Dot6(bom).output_as_string(indent=2)
    faults = [
        f"{fault.instance_path}: {fault.message}" for fault in _validator().iter_errors(json.loads(text))
    ]
    if faults:
        raise ValueError(f"the bill of materials is not valid: {faults[:3]}")
    return text + "\n"


def _validator() -> Any:
    folder = Path(cyclonedx_schema.__file__).parent / "_res"

    def read(name: str) -> Any:
        return json.loads((folder / name).read_text(encoding="utf-8"))

    def retrieve(address: str) -> Any:
        return read(address.rpartition("/")[2])

    return jsonschema_rs.Draft7Validator(read("bom-1.6.SNAPSHOT.schema.json"), retriever=retrieve)


def main() -> None:
    """Write the bills of all locks."""
    directory = REPOSITORY / "build" / "sbom"
    directory.mkdir(parents=True, exist_ok=True)
    for name in LOCKS:
        lock = (REPOSITORY / "requirements" / f"{name}.lock").read_text(encoding="utf-8")
        bom = bill(lock, importlib.metadata.version(PACKAGE))
        path = directory / f"{name}.cdx.json"
        path.write_text(written(bom), encoding="utf-8")
        print(f"sbom: {len(bom.components)} components in {path.relative_to(REPOSITORY)}")


if __name__ == "__main__":
    sys.exit(main())
