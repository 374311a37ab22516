"""XML files of others, read so that none of them can do harm."""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element

from defusedxml import DefusedXmlException, ElementTree

from weft.readers.checks import number
from weft.readers.fingerprint import existing

_LARGEST = 512 * 2**20


def project_file(path: str | Path, kind: str) -> Path:
    """The XML file of a project: itself, or the only one of a folder.

    Raises
    ------
    FileNotFoundError
        When nothing is at ``path``.
    ValueError
        When the folder holds none or several.
    """
    path = existing(path)
    if path.is_file():
        return path
    found = sorted(path.glob("*.xml"))
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise ValueError(f"{path}: found the XML files {names}; wanted the path of one {kind} project")
    return found[0]


def read_xml(path: Path, root: str | tuple[str, ...]) -> Element:
    """The root element of an XML file.

    A document type may be named (TeraStitcher does), but nothing outside the file is read, and entities are
    refused: neither expansion bombs nor the contents of other files get in.

    Parameters
    ----------
    path
        File.
    root
        The name, or names, that its root element may have.

    Raises
    ------
    ValueError
        When the file is no well-formed XML, defines entities, is larger than 512 MB, or has another root.
    """
    wanted = (root,) if isinstance(root, str) else root
    if (size := path.stat().st_size) > _LARGEST:
        raise ValueError(f"{path}: {size} bytes are found; wanted an XML file of at most {_LARGEST}")
    try:
        element = ElementTree.parse(path).getroot()
    except DefusedXmlException as error:
        raise ValueError(
            f"{path}: it defines entities or refers to others' ({type(error).__name__}); wanted plain XML"
        ) from error
    except (ElementTree.ParseError, UnicodeError, LookupError) as error:
        raise ValueError(f"{path}: cannot be read as XML ({error})") from error
    if element.tag not in wanted:
        raise ValueError(f"{path}: its root is <{element.tag}>; wanted <{'> or <'.join(wanted)}>")
    return element


def child(element: Element, name: str, where: str | Path) -> Element:
    """The first child element of a name.

    Raises
    ------
    ValueError
        When there is none.
    """
    found = element.find(name)
    if found is None:
        raise ValueError(f"{where}: <{element.tag}> has no <{name}>")
    return found


def text_of(element: Element, name: str, where: str | Path) -> str:
    """The text of the first child of a name.

    Raises
    ------
    ValueError
        When there is none.
    """
    return (child(element, name, where).text or "").strip()


def attribute(element: Element, name: str, where: str | Path) -> str:
    """An attribute.

    Raises
    ------
    ValueError
        When it is missing.
    """
    value = element.get(name)
    if value is None:
        raise ValueError(f"{where}: <{element.tag}> has no {name}")
    return value


def number_of(element: Element, name: str, where: str | Path) -> float:
    """An attribute that is a number.

    Raises
    ------
    ValueError
        When it is missing or none.
    """
    return number(attribute(element, name, where), f"{name} of <{element.tag}>", where)
