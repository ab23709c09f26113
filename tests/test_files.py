"""What a killed process leaves under temporary names goes, and what a living one writes stays."""

import os
import subprocess
import sys
import time

import pytest

from diffusers_macdm import files, locks


# Writers that stop in the middle of writing into the folder `sys.argv[1]`, to be killed there.
BEGINNING = """
import os, sys, time
from pathlib import Path
from diffusers_macdm import files

folder = Path(sys.argv[1])

def stop_here(*_):
    print("here", flush=True)
    time.sleep(600)
"""
WRITERS = {
    "write_json": """
Path.replace = stop_here  # written, and not renamed yet
files.write_json(folder / "training_config.json", {"seed": 0})
""",
    "new_folder": """
with files.new_folder(folder / "weak_unet") as temporary:
    (temporary / "part").mkdir()
    (temporary / "part" / "weights").write_bytes(b"half")
    stop_here()
""",
    "scratch_folder": """
with files.scratch_folder(folder) as temporary:
    (temporary / "unet").mkdir()
    stop_here()
""",
}


def again(writer, folder):
    """The same write, to its end, as another process does it: one that has not looked into the folder yet."""
    files._remove_leftovers_once.cache_clear()
    if writer == "write_json":
        files.write_json(folder / "training_config.json", {"seed": 0})
    elif writer == "new_folder":
        with files.new_folder(folder / "weak_unet") as temporary:
            (temporary / "weights").write_bytes(b"whole")
    else:
        with files.scratch_folder(folder) as temporary:
            (temporary / "unet").mkdir()


@pytest.fixture
def start(tmp_path):
    """`start(writer)` -> the process, once it stands in the middle of writing."""
    processes = []

    def start(writer):
        process = subprocess.Popen(
            [sys.executable, "-c", BEGINNING + WRITERS[writer], tmp_path], stdout=subprocess.PIPE, text=True
        )
        processes.append(process)
        assert process.stdout.readline() == "here\n"
        return process

    yield start
    for process in processes:
        kill(process)
        process.stdout.close()


def kill(process):
    process.kill()  # SIGKILL: nothing of its own can clean up
    process.wait()


@pytest.mark.parametrize("writer", WRITERS)
def test_leftovers_of_a_killed_process_go_with_the_next_write(writer, start, tmp_path):
    process = start(writer)
    (left,) = tmp_path.iterdir()
    assert left.suffix == ".tmp" and str(process.pid) in left.name
    kill(process)
    again(writer, tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("writer", WRITERS)
def test_what_a_living_process_writes_stays(writer, start, tmp_path):
    start(writer)
    (written,) = tmp_path.iterdir()
    os.utime(written, (0, 0))  # however long ago
    again(writer, tmp_path)
    files.remove_leftovers(tmp_path)
    assert written.exists()


def test_leftovers_anywhere_in_an_output_folder(start, tmp_path):
    """`remove_leftovers` reaches all of them, `begin` does so where work is taken up again, and nothing else goes."""
    out = tmp_path / "out"
    (out / "runs").mkdir(parents=True)
    files.begin(out, {"seed": 0})
    process = start("new_folder")
    kill(process)
    left = next(tmp_path.glob(".weak_unet*"))
    others = [out / ".hidden", out / ".notes.tmp", out / "runs" / "result.tmp", out / "runs" / ".x.tmp.png"]
    for path in others:
        path.write_bytes(b"mine")
    left.rename(out / "runs" / left.name)
    files.begin(out, {"seed": 0})
    assert not (out / "runs" / left.name).exists() and all(path.exists() for path in others)


@pytest.mark.parametrize("of_machine", ["0123abcd-", ""])
def test_processes_elsewhere_are_given_a_day(of_machine, start, tmp_path):
    """Whether the process of another machine, or of an earlier version's name, lives cannot be asked."""
    process = start("scratch_folder")
    kill(process)
    (left,) = tmp_path.iterdir()
    foreign = left.rename(tmp_path / f".parts.{of_machine}{process.pid}.tmp")
    for age, stays in ((23, True), (25, False)):
        for path in (foreign, foreign / "unet"):
            os.utime(path, (time.time() - age * 3600,) * 2)
        files.remove_leftovers(tmp_path)
        assert foreign.exists() == stays


def test_a_folder_with_leftovers_alone_is_free(start, tmp_path):
    """A call that was killed while it wrote its settings does not stand in its own way."""
    kill(start("write_json"))
    files.refuse_filled(tmp_path)
    files.refuse_foreign(tmp_path, "result.json", "sweep")
    (tmp_path / "film.png").write_bytes(b"")
    with pytest.raises(FileExistsError, match="not an empty folder"):
        files.refuse_filled(tmp_path)
    with pytest.raises(FileExistsError, match="neither an empty folder nor an interrupted sweep"):
        files.refuse_foreign(tmp_path, "result.json", "sweep")


HOLDER = """
import os, sys, time
from pathlib import Path
from diffusers_macdm import files

with files.locked(Path(sys.argv[1])):
    begun = os.pipe()
    child = os.fork() if "fork" in sys.argv else None
    if child == 0:
        os.write(begun[1], b"x")  # what is done at its start, closing its copy of the lock, is done
        time.sleep(20)  # as the loader of a killed training, which notices after seconds
        os._exit(0)
    if child is not None:
        os.read(begun[0], 1)
    print(child or os.getpid(), flush=True)
    sys.stdin.read()
"""


def holder(folder, *words):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder), *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    return process, int(process.stdout.readline())


def test_the_second_writer_of_a_folder_is_refused(tmp_path):
    out = tmp_path / "runs" / "out"
    process, _ = holder(out)
    files.refuse_filled(out)  # a lock is no content
    for _ in range(2):  # being refused releases nothing
        with pytest.raises(
            FileExistsError, match=rf"^{out} is being written by another process \(process {process.pid} on .*: "
        ):
            with files.locked(out):
                pass
    assert (out / files.LOCK_FILE).is_file()
    process.communicate("")
    with files.locked(out):
        pass
    assert not list(tmp_path.iterdir())  # what was made for the lock alone


def test_a_killed_writer_holds_nobody_up(tmp_path):
    """Nor do its forked processes that live on."""
    process, child = holder(tmp_path, "fork")
    kill(process)
    assert (tmp_path / files.LOCK_FILE).is_file()
    with files.locked(tmp_path):
        os.kill(child, 0)
    os.kill(child, 9)
    process.stdin.close(), process.stdout.close()
    assert not list(tmp_path.iterdir())


def test_a_folder_is_held_once_in_a_process_too(tmp_path):
    with files.locked(tmp_path):
        (tmp_path / "film.png").write_bytes(b"")
        with pytest.raises(FileExistsError, match="another"), files.locked(tmp_path):
            pass
        with pytest.raises(FileExistsError, match="another"), files.locked(tmp_path):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["film.png"]


def test_a_file_is_no_folder_to_hold(tmp_path):
    (tmp_path / "out").write_bytes(b"")
    with pytest.raises(FileExistsError, match="not a folder"), files.locked(tmp_path / "out"):
        pass


def test_where_files_cannot_be_locked_a_warning_says_so(tmp_path, monkeypatch):
    def no_locks(descriptor, operation):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", no_locks)
    with pytest.warns(UserWarning, match=f"{tmp_path} lies where files cannot be locked"), files.locked(tmp_path):
        pass


def test_many_at_once_get_the_folder_one_after_the_other(tmp_path):
    """Making and removing the lock's file leaves no moment in which two hold the folder."""
    code = """
import sys, time
from pathlib import Path
from diffusers_macdm import files
out, done = Path(sys.argv[1]), 0
print(flush=True), sys.stdin.readline()
while done < 200:
    try:
        with files.locked(out):
            (out / "mine").touch(exist_ok=False)
            (out / "mine").unlink()
            done += 1
    except FileExistsError as error:
        assert "being written" in str(error), error
"""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "out")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    for process in processes:
        process.stdout.readline()
    for process in processes:
        process.stdin.write("\n"), process.stdin.flush()
    for process in processes:
        process.communicate()
    assert [process.returncode for process in processes] == [0, 0, 0]
