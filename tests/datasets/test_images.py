"""Whatever a file calls itself and however its colours are stored, a decoded picture is right RGB, upright."""

import io
import struct

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from workbench.datasets.images import decode
from workbench.errors import Corrupt, OutOfRange


@pytest.fixture
def colours():
    """(30, 40, 3) uint8: red grows downwards, green to the right, blue is high at the top left."""
    down, right = np.mgrid[:30, :40]
    return np.stack([8 * down, 6 * right, 250 - 4 * down - 3 * right], 2).astype(np.uint8)


def encoded(image, form, **options):
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


@pytest.mark.parametrize("form", ["PNG", "BMP", "PPM", "TIFF", "WEBP"])
def test_a_lossless_picture_comes_back_as_it_was(colours, form):
    found = decode(encoded(Image.fromarray(colours), form, **{"lossless": True} if form == "WEBP" else {}))
    assert found.dtype == torch.uint8 and found.shape == (30, 40, 3)
    assert np.array_equal(found, colours)
    assert not np.array_equal(found, colours[:, :, ::-1])  # witness: not blue first


def test_a_jpeg_has_the_bytes_that_pillow_makes_of_it(colours):
    data = encoded(Image.fromarray(colours), "JPEG", quality=85)
    expected = np.asarray(Image.open(io.BytesIO(data)))
    assert np.array_equal(decode(data), expected)
    assert not np.array_equal(expected, colours)  # witness: something was lost


def test_a_file_and_its_bytes_are_one_picture(colours, tmp_path):
    data = encoded(Image.fromarray(colours), "JPEG")
    (tmp_path / "a b.jpeg").write_bytes(data)
    assert torch.equal(decode(tmp_path / "a b.jpeg"), decode(data))


def test_cmyk_is_turned_to_rgb(colours):
    """As Adobe writes it, inverted in JPEG and upright in TIFF."""
    image = Image.fromarray(colours).convert("CMYK")
    assert np.array_equal(decode(encoded(image, "TIFF")), colours)
    found = decode(encoded(image, "JPEG", quality=100)).int() - torch.from_numpy(colours).int()
    assert found.abs().max() < 12
    assert (255 - decode(encoded(image, "JPEG")).int() - torch.from_numpy(colours).int()).abs().max() > 200  # witness


@pytest.mark.parametrize(("form", "mode"), [("PNG", "L"), ("PNG", "LA"), ("PNG", "1"), ("TIFF", "L"), ("PPM", "L")])
def test_grey_has_three_equal_channels(colours, form, mode):
    image = Image.fromarray(colours).convert(mode)
    found = decode(encoded(image, form))
    assert found.shape == (30, 40, 3) and (found == found[:, :, :1]).all()
    assert np.array_equal(found[:, :, 0], image.convert("L"))
    assert len(found.unique()) > 1  # witness


def test_a_grey_jpeg_has_three_equal_channels(colours):
    found = decode(encoded(Image.fromarray(colours).convert("L"), "JPEG"))
    assert found.shape == (30, 40, 3) and (found == found[:, :, :1]).all() and len(found.unique()) > 50


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_keep_their_upper_eight(form):
    values = np.linspace(0, 65535, 1200).astype(np.uint16).reshape(30, 40)
    data = encoded(Image.fromarray(values), form)
    assert np.array_equal(decode(data), np.repeat((values // 256)[:, :, None], 3, 2))
    clipped = np.asarray(Image.open(io.BytesIO(data)).convert("I").convert("L"))
    assert (clipped == 255).mean() > 0.9  # witness: what a plain conversion would make of it


@pytest.mark.parametrize("transparency", [None, 3, bytes(range(0, 250, 2))])
def test_a_palette_is_looked_up_and_transparency_dropped(transparency):
    index = np.arange(1200).reshape(30, 40) % 125
    image = Image.fromarray(index.astype(np.uint8), "P")
    palette = np.random.default_rng(0).integers(0, 256, (125, 3), dtype=np.uint8)
    image.putpalette(palette.tobytes())
    options = {} if transparency is None else {"transparency": transparency}
    assert np.array_equal(decode(encoded(image, "PNG", **options)), palette[index])
    assert not np.array_equal(index, palette[index][:, :, 0])  # witness


def test_transparency_uncovers_the_colours_below(colours):
    clear = np.dstack([colours, np.zeros((30, 40), np.uint8)])
    assert np.array_equal(decode(encoded(Image.fromarray(clear), "PNG")), colours)


TURNED = {  # EXIF 2.32, 4.6.4: what is at the top and at the left of the stored picture
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: a.swapaxes(0, 1)[::-1],
}


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_an_exif_turn_is_carried_out(colours, form, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if form == "JPEG" else {"lossless": True} if form == "WEBP" else {}
    found = decode(encoded(Image.fromarray(colours), form, exif=exif, **options)).int()
    upright = torch.from_numpy(TURNED[orientation](colours).copy()).int()
    assert found.shape == upright.shape and (found - upright).abs().max() <= (4 if form == "JPEG" else 0)
    if orientation > 1 and found.shape[0] == 30:  # witness
        assert (found - torch.from_numpy(colours).int()).abs().max() > 50


UNUSUAL = {  # EXIF tag, type and value that Pillow reads and does not write again
    "a unit as text": (0x0128, 2, b"2"),
    "a width as text": (0x0100, 2, b"x"),
    "a resolution as text": (0x011A, 2, b"7"),
    "a rational's place as a float": (0x0213, 11, struct.pack("<f", 1.5)),
    "a negative number": (0x0103, 8, struct.pack("<h", -1)),
}


def exif(*entries):
    """The bytes of these tags, each a tag, a type and one value."""
    listed = [struct.pack("<HHI", tag, kind, 1) + value.ljust(4, b"\0") for tag, kind, value in sorted(entries)]
    head = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(listed))
    return head + b"".join(listed) + struct.pack("<I", 0)


@pytest.mark.parametrize("tag", UNUSUAL)
def test_an_unusual_tag_beside_the_turn_costs_no_photograph(colours, tag):
    turn = (0x0112, 3, struct.pack("<H", 6))
    data = encoded(Image.fromarray(colours), "PNG", exif=exif(turn, UNUSUAL[tag]))
    assert np.array_equal(decode(data), TURNED[6](colours))
    with pytest.raises((struct.error, TypeError, ValueError)):
        ImageOps.exif_transpose(Image.open(io.BytesIO(data)))  # witness


@pytest.mark.parametrize("data", [b"Exif\0\0nonsense", b"Exif\0\0MM\0*", b"Exif\0\0II"], ids=repr)
def test_an_exif_that_cannot_be_read_turns_nothing(colours, data):
    data = encoded(Image.fromarray(colours), "PNG", exif=data)
    assert np.array_equal(decode(data), colours)
    with pytest.raises((SyntaxError, struct.error)):
        Image.open(io.BytesIO(data)).getexif()  # witness


def test_of_an_animation_the_first_frame_counts():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(data).unique(dim=0).tolist() == [[[255, 0, 0]] * 4]


def test_the_limit_is_a_number_of_pixels(colours):
    data = encoded(Image.fromarray(colours), "PNG")
    assert decode(data, limit=1200).shape == (30, 40, 3)
    with pytest.raises(OutOfRange, match=r"the 3rd upload has 40 x 30 pixels; at most 0.001199 million"):
        decode(data, "the 3rd upload", limit=1199)


def test_a_format_that_would_start_a_program_is_not_opened(colours, tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(colours).save(path, "EPS")
    with Image.open(path) as image:
        assert image.format == "EPS"  # witness: Pillow would, and hand it to Ghostscript
    with pytest.raises(Corrupt, match=r"picture\.png is no picture in a format known here"):
        decode(path)


def test_floating_point_grey_is_refused():
    with pytest.raises(Corrupt, match="floating-point"):
        decode(encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_altered_bytes_are_decoded_or_corrupt_and_nothing_else(colours, form):
    data = encoded(Image.fromarray(colours), form)
    random, refused = np.random.default_rng(0), 0
    for _ in range(60):
        altered = bytearray(data)
        for place in random.integers(0, len(data), 3):
            altered[place] = random.integers(256)
        try:
            assert decode(bytes(altered), limit=100_000).shape[2] == 3
        except (Corrupt, OutOfRange):
            refused += 1
    assert refused  # witness
