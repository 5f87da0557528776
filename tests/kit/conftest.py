import pytest

# The checks of the corpus are asserts, as a user has them in a test module: pytest says what they compare.
pytest.register_assert_rewrite("tests.kit.corpus")
