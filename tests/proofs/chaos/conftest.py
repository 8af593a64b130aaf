from tests.e2e.conftest import open_folder

__all__ = ["open_folder"]
