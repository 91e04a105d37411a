"""Pictures: upright, small, bare of metadata; animations have a clear outcome."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, ImageChops, ImageCms

from asynch.errors import ProcessorError
from tests.clips import Bench


def test_a_thumbnail_fits_and_stands_upright(bench: Bench, photo: Path) -> None:
    product = bench.run("image.thumbnail", photo, width=100, height=100)

    with Image.open(product.path) as image:
        assert (
            (image.format, image.size)
            == ("JPEG", (100, 50))
            == ("JPEG", (product.facts["width"], product.facts["height"]))
        )


def test_a_thumbnail_is_never_larger_than_the_picture(bench: Bench, photo: Path) -> None:
    assert bench.run("image.thumbnail", photo, width=4000, height=4000).facts["width"] == 400


@pytest.mark.parametrize("name", ["image.thumbnail", "image.compress", "image.watermark"])
def test_a_product_has_no_metadata(bench: Bench, photo: Path, name: str) -> None:
    with Image.open(bench.run(name, photo).path) as image:
        assert dict(image.getexif()) == {}


def test_a_colour_profile_stays(bench: Bench, clips: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.new("RGB", (50, 50), "red").save(path := clips / "profile.png", icc_profile=profile)

    with Image.open(bench.run("image.thumbnail", path).path) as image:
        assert image.info["icc_profile"] == profile


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK", "LAB"])
def test_every_mode_of_pixels_is_scaled(bench: Bench, clips: Path, mode: str) -> None:
    """Grey stays that grey; of one bit, every second pixel is white."""
    path = clips / f"{mode.replace(';', '')}.tiff"
    grey = Image.new("RGB", (400, 300), (128, 128, 128)).convert("L")
    if mode == "LAB":
        Image.new("LAB", grey.size, (137, 128, 128)).save(path)
    elif mode == "I;16":
        Image.new("I;16", grey.size, 128 * 257).save(path)
    else:
        grey.convert("RGB" if mode in ("P", "CMYK") else "L").convert(mode).save(path)

    with Image.open(bench.run("image.thumbnail", path, width=40, height=40).path) as image:
        assert image.convert("L").resize((1, 1), Image.Resampling.BOX).getpixel((0, 0)) == pytest.approx(128, abs=6)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_stands_upright_however_it_lies(bench: Bench, clips: Path, orientation: int) -> None:
    upright = Image.new("L", (80, 40))
    upright.paste(255, (0, 0, 40, 20))  # white at the top left
    lies = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # orientation to the Image.Transpose that undoes it
    exif = Image.Exif()
    exif[274] = orientation
    stored = upright.transpose(Image.Transpose(lies[orientation])) if orientation > 1 else upright
    stored.save(path := clips / f"orientation{orientation}.png", exif=exif)

    with Image.open(bench.run("image.thumbnail", path).path) as image:
        assert image.size == (80, 40)
        assert [image.getpixel(at) > 128 for at in ((10, 10), (70, 10), (10, 30), (70, 30))] == [
            True,
            False,
            False,
            False,
        ]


def test_a_photo_with_a_second_one_inside_is_a_photo(bench: Bench, clips: Path) -> None:
    first, second = Image.effect_noise((200, 100), 90), Image.new("L", (200, 100))
    first.save(path := clips / "depth.jpg", "MPO", save_all=True, append_images=[second], quality=98)

    assert bench.run("image.compress", path, quality=20).facts["animated"] is False


def test_what_is_transparent_becomes_white_in_a_jpeg(bench: Bench, clips: Path) -> None:
    Image.new("RGBA", (40, 30), (0, 0, 0, 0)).save(path := clips / "clear.png")

    with Image.open(bench.run("image.thumbnail", path).path) as image:
        assert image.getpixel((5, 5)) == (255, 255, 255)


def test_a_thumbnail_of_an_animation_is_its_first_frame(bench: Bench, animation: Path) -> None:
    with Image.open(bench.run("image.thumbnail", animation).path) as image:
        assert image.convert("L").getextrema() == (0, 0)


def test_an_animation_is_kept_by_compression(bench: Bench, animation: Path) -> None:
    product = bench.run("image.compress", animation)

    assert (product.path, product.facts["kept"], product.facts["animated"]) == (animation, True, True)


def test_an_animation_gets_no_watermark(bench: Bench, animation: Path) -> None:
    with pytest.raises(ProcessorError, match="animation"):
        bench.run("image.watermark", animation)


def test_a_compressed_picture_is_smaller_and_of_the_same_format(bench: Bench, photo: Path) -> None:
    product = bench.run("image.compress", photo, quality=50)

    assert product.path.stat().st_size < photo.stat().st_size
    assert (product.ext, product.facts["kept"]) == ("jpg", False)


def test_a_picture_that_gets_no_smaller_is_kept(bench: Bench, clips: Path) -> None:
    Image.new("RGB", (300, 300), "red").save(path := clips / "light.jpg", quality=1, optimize=True, progressive=True)

    assert bench.run("image.compress", path, quality=95).path == path


def test_a_watermark_stands_where_it_was_asked_for(bench: Bench, clips: Path) -> None:
    Image.new("RGB", (400, 300), "gray").save(path := clips / "gray.png")
    made = bench.run("image.watermark", path, text="mine", position="top-left", opacity=1.0).path

    with Image.open(path) as before, Image.open(made) as after:
        left, top, right, bottom = ImageChops.difference(before.convert("RGB"), after).getbbox()
    assert left < 20
    assert top < 20
    assert right < 200
    assert bottom < 150


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_watermark_changes_nothing_but_the_text(bench: Bench, clips: Path, mode: str) -> None:
    Image.new(mode, (400, 300), "gray").save(path := clips / f"plain-{mode}.jpg")

    with Image.open(bench.run("image.watermark", path, position="bottom-right").path) as image:
        assert (image.mode, image.size) == (mode, (400, 300))
        assert image.crop((0, 0, 400, 200)).convert("L").getextrema() == (128, 128)
        assert image.crop((200, 200, 400, 300)).convert("L").getextrema() != (128, 128)


def test_a_watermark_wider_than_the_picture_is_cut(bench: Bench, clips: Path) -> None:
    Image.new("RGB", (40, 30)).save(path := clips / "narrow.png")

    assert bench.run("image.watermark", path, text="W" * 100, size=0.5).facts["width"] == 40


def test_a_text_that_the_font_lacks_is_refused(bench: Bench, photo: Path) -> None:
    with pytest.raises(ProcessorError, match="font has no"):
        bench.run("image.watermark", photo, text="水印")


@pytest.mark.parametrize("form", ["jpeg", "png", "webp"])
def test_a_thumbnail_is_made_in_the_format_that_was_asked_for(bench: Bench, photo: Path, form: str) -> None:
    with Image.open(bench.run("image.thumbnail", photo, format=form).path) as image:
        assert image.format == form.upper()
