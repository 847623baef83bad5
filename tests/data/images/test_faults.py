"""The same fault of many images is one line, with a count and the first three."""

from __future__ import annotations

from data.images.faults import by_fault, fault_lines


def test_the_same_fault_of_many_images_is_one_line() -> None:
    """As many as a training on DF2K at the wrong scale would name."""
    problems = [f"DF2K/LR/{i:06}x3.png: it is {40 + i % 9} x 40; expected DF2K/HR/{i:06}.png" for i in range(139_995)]
    (line,) = fault_lines(problems)
    assert line == (
        "139,995 images: it is 40 x 40; expected DF2K/HR/000000.png (the first of them): "
        "DF2K/LR/000000x3.png, DF2K/LR/000001x3.png, DF2K/LR/000002x3.png, ..."
    )


def test_other_faults_and_single_images_have_lines_of_their_own() -> None:
    assert fault_lines(["a.png: is cut short", "b.png: the file is empty", "c.png: is cut short"]) == [
        "2 images: is cut short: a.png, c.png",
        "b.png: the file is empty",
    ]
    assert fault_lines([]) == []


def test_images_are_named_whatever_they_are_called() -> None:
    assert fault_lines(["set.pack: k1: is damaged", "set.pack: k2: is damaged"]) == [
        "2 images: is damaged: set.pack: k1, set.pack: k2"
    ]
    assert fault_lines(["HR/my cat.png: no partner my catx2.png", "HR/a dog.png: no partner a dogx2.png"]) == [
        "2 images: no partner my catx2.png (the first of them): HR/my cat.png, HR/a dog.png"
    ]
    assert fault_lines(["a.png", "b.png"]) == ["2 images: a.png, b.png"]
    assert fault_lines(["set.lmdb: the folder is no LMDB data set"]) == ["set.lmdb: the folder is no LMDB data set"]
    assert [len(group) for group in by_fault(["a: x 1", "b: y 1", "c: x 2"])] == [2, 1]
