import numpy as np
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from emorec.baselines.item_models import RidgeKNN
from emorec.threads import one_blas_thread, threads, use_threads
from tests.small import small_log


def blas_threads():
    return {each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}


def test_all_libraries_have_the_same_number_for_a_while():
    with threadpool_limits(2):
        before = torch.get_num_threads()
        with threads(1):
            assert blas_threads() == {1} and torch.get_num_threads() == 1
        assert blas_threads() == {2} and torch.get_num_threads() == before
        with threads(0):
            assert blas_threads() == {before}


def test_all_libraries_have_the_same_number_for_good():
    before = torch.get_num_threads()
    with threadpool_limits(2):
        use_threads(2)
        assert blas_threads() == {2} and torch.get_num_threads() == 2
        torch.set_num_threads(1)
        use_threads(0)
        assert blas_threads() == {1} and torch.get_num_threads() == 1
        torch.set_num_threads(before)


def test_small_solves_use_one_thread_of_blas(monkeypatch):
    used = []
    solve = np.linalg.solve
    monkeypatch.setattr(
        np.linalg, "solve", lambda a, b: (used.append(blas_threads()), solve(a, b))[1]
    )
    log = small_log([(user, item, 0, item) for user in range(3) for item in range(4)], 3, 4)
    with threadpool_limits(2):
        RidgeKNN(2).fit(log)
        assert used == [{1}]
        assert blas_threads() == {2}
        with one_blas_thread():
            assert torch.get_num_threads() >= 1  # PyTorch's are its own
