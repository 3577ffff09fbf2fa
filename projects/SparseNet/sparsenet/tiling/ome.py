"""What an OME-TIFF says about its planes.

The Open Microscopy Environment's OME-XML lies in the first directory's ImageDescription; each plane
of ``SizeC × SizeZ × SizeT`` is a directory of its own.
"""

from __future__ import annotations

from xml.etree import ElementTree

from sparsenet.errors import ImageReadError


def count_ome_planes(path: str, description: str) -> int:
    """How many pages of a TIFF form one colour image.

    Args:
        path: Names the file in messages.
        description: The ImageDescription of the first page.

    Returns:
        3 where red, green and blue are pages of their own, otherwise 1.

    Raises:
        ImageReadError: If the file holds a stack, or another number of channels.
    """
    if "<OME" not in description[:4096]:
        return 1
    try:
        root = ElementTree.fromstring(description)
    except ElementTree.ParseError as error:
        raise ImageReadError(f"{path}: its OME-XML cannot be read: {error}.") from error
    pixels = root.find(".//{*}Pixels")
    if pixels is None:
        return 1
    channels, depth, times = (int(pixels.get(name, "1")) for name in ("SizeC", "SizeZ", "SizeT"))
    channel = pixels.find("{*}Channel")
    samples = 1 if channel is None else int(channel.get("SamplesPerPixel", "1"))
    num_planes = channels // max(samples, 1)
    if num_planes not in (1, 3) or (num_planes == 3 and samples != 1) or depth * times != 1:
        raise ImageReadError(
            f"{path}: an OME-TIFF must hold one grey or RGB plane, this one holds {num_planes} "
            f"channels × {depth} depths × {times} times, and which to show is not known. Write the "
            "wanted plane, or three channels as RGB, to a TIFF of its own first."
        )
    return num_planes
