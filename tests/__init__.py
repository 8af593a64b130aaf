import pytest

pytest.register_assert_rewrite("provisioners.conformance")
