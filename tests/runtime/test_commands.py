"""What the programs' commands share."""

import gc

import pytest

from runtime.commands import quick_imports


def test_garbage_is_collected_again_after_the_imports() -> None:
    frozen = gc.get_freeze_count()
    with quick_imports():
        assert not gc.isenabled()
        imported: list[list[int]] = [[]]

    assert gc.isenabled()
    # Among them what the block has imported, here a list.
    assert gc.get_freeze_count() > frozen
    assert not any(each is imported for each in gc.get_objects())


def test_garbage_is_collected_again_after_a_failed_import() -> None:
    with pytest.raises(ModuleNotFoundError), quick_imports():
        raise ModuleNotFoundError

    assert gc.isenabled()
