"""The package in an interpreter: python test_seawall.py [unittest's arguments]"""

import ast
import datetime
import gc
import importlib.resources
import os
import pathlib
import pickle
import signal
import tempfile
import threading
import time
import unittest

import seawall

MS = datetime.timedelta(milliseconds=1)


class SeawallTest(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.dir = pathlib.Path(scratch.name) / "log"

    def test_records_come_back_as_they_were_appended(self):
        with seawall.open(self.dir) as wal:
            self.assertEqual(wal.append(b"a"), 1)
            self.assertEqual(wal.append(bytearray(b"b"), meta=b"m", kind=7), 2)
            self.assertEqual(wal.append(b"", meta=bytearray(b"n")), 3)
        with seawall.open(str(self.dir)) as wal:
            found = [(r.lsn, r.payload, r.meta, r.kind) for r in wal]
            self.assertEqual(found, [(1, b"a", b"", 0), (2, b"b", b"m", 7), (3, b"", b"n", 0)])
            self.assertEqual([r.lsn for r in wal.iter()], [1, 2, 3])
            self.assertEqual([r.lsn for r in wal.iter_from(2)], [2, 3])
            self.assertEqual([r.lsn for r in wal.iter_after(2)], [3])
            self.assertEqual(wal.read(2).payload, b"b")
            self.assertIsNone(wal.read(4))
            self.assertEqual(repr(wal.read(1)), "<seawall.Record 1 of 1 bytes>")
            self.assertEqual((wal.first_lsn, wal.last_lsn, wal.durable_lsn), (1, 3, 3))
            self.assertEqual(wal.dir, os.fspath(self.dir.resolve()))

    def test_a_batch_is_all_or_nothing(self):
        with seawall.open(self.dir) as wal:
            batch = (e for e in [b"a", bytearray(b"b"), seawall.Entry(b"c", meta=b"m", kind=3)])
            self.assertEqual(wal.append_batch(batch), range(1, 4))
            self.assertEqual(wal.append_batch([]), range(4, 4))
            for wrong in ([b"d", "text"], [b"d", 5], 5):
                with self.assertRaises(TypeError):
                    wal.append_batch(wrong)
            with self.assertRaises(TypeError):
                wal.append("text")
            self.assertEqual([r.payload for r in wal], [b"a", b"b", b"c"])
            self.assertEqual([r.kind for r in wal], [0, 0, 3])

    def test_the_state_is_kept_and_a_checkpoint_removes(self):
        with seawall.open(self.dir) as wal:
            self.assertEqual(wal.state(), b"")
            wal.set_state(b"vote 2")
            lsns = wal.append_batch([b"a", b"b", b"c"])
            wal.checkpoint(lsns[0])
            self.assertEqual(wal.state(), b"vote 2")
            wal.checkpoint(lsns[1], b"vote 3")
        with seawall.open(self.dir) as wal:
            self.assertEqual(wal.state(), b"vote 3")
            self.assertEqual([r.payload for r in wal], [b"c"])
            with self.assertRaises(seawall.RemovedError) as caught:
                next(wal.iter_from(1))
            self.assertEqual(caught.exception.first, 3)
            self.assertIn(caught.exception.remedy, str(caught.exception))
            with self.assertRaises(seawall.OutOfRangeError) as caught:
                wal.checkpoint(9)
            self.assertEqual((caught.exception.lsn, caught.exception.last), (9, 3))

    def test_options_are_taken_and_checked(self):
        with seawall.open(self.dir, durability="buffered", codec="zstd", record_bytes_max=4) as wal:
            wal.append(b"1234")
            self.assertEqual(wal.durable_lsn, 0)
            self.assertEqual(wal.sync(), 1)
            with self.assertRaises(seawall.TooLargeError) as caught:
                wal.append(b"12345")
            self.assertIsInstance(caught.exception, ValueError)
        with seawall.open(self.dir, durability=20 * MS, codec="lz4", segment_bytes=1 << 20) as wal:
            wal.append(b"x" * 4000)
            self.assertEqual(wal.follow(1).next_timeout(5000 * MS).payload, b"x" * 4000)
        with self.assertRaises(seawall.InvalidOptionError) as caught:
            seawall.open(self.dir, segment_bytes=1)
        self.assertIn("must be", caught.exception.remedy)
        for wrong in ({"durability": "never"}, {"codec": "gzip"}):
            with self.assertRaises(ValueError):
                seawall.open(self.dir, **wrong)
        with self.assertRaises(OverflowError):
            seawall.open(self.dir, segment_bytes=-1)
        with self.assertRaises(TypeError):
            seawall.open(self.dir, 5)

    def test_an_error_has_its_file_offset_and_remedy(self):
        with seawall.open(self.dir) as wal:
            with self.assertRaises(seawall.LockedError) as caught:
                seawall.open(self.dir)
            locked = caught.exception
            self.assertTrue(locked.path.endswith("LOCK"))
            self.assertIsNone(locked.offset)
            self.assertEqual(locked.remedy, "close it there first")
            self.assertEqual(locked.holder, os.getpid())
            copy = pickle.loads(pickle.dumps(locked))
            self.assertEqual((copy.path, copy.remedy, str(copy)), (locked.path, locked.remedy, str(locked)))
            wal.append(b"to be damaged")
        segment = self.dir.resolve() / "wal-000001.log"
        content = segment.read_bytes()
        at = content.index(b"to be damaged")
        segment.write_bytes(content[:at] + b"T" + content[at + 1 :])
        with self.assertRaises(seawall.CorruptError) as caught:
            seawall.open(self.dir)
        damaged = caught.exception
        self.assertEqual(damaged.path, os.fspath(segment))
        self.assertTrue(0 < damaged.offset <= at)
        self.assertEqual(damaged.lost, range(1, 2))
        self.assertEqual(damaged.remedy, "restore the file from a copy")
        with self.assertRaises(seawall.LogNotFoundError) as caught:
            seawall.open(self.dir.parent / "missing", create_if_missing=False)
        self.assertTrue(caught.exception.path.endswith("missing"))

    def test_an_error_of_the_system_is_the_cause(self):
        file = self.dir.parent / "file"
        file.write_bytes(b"")
        with self.assertRaises(seawall.IoError) as caught:
            seawall.open(file / "log")
        self.assertIsInstance(caught.exception.__cause__, OSError)
        self.assertIsNotNone(caught.exception.__cause__.errno)
        self.assertIsNotNone(caught.exception.path)

    def test_a_closed_log_says_so_and_with_closes_once(self):
        wal = seawall.open(self.dir)
        with wal:
            wal.append(b"a")
            iterator = wal.iter()
            wal.close()
        for call in (wal.close, wal.sync, lambda: wal.append(b"b"), lambda: next(iterator)):
            with self.assertRaises(seawall.ClosedError):
                call()
        with self.assertRaises(ZeroDivisionError):
            with seawall.open(self.dir) as wal:
                1 / 0
        seawall.open(self.dir).close()

    def test_a_log_that_is_no_longer_referenced_gives_its_lock_back(self):
        wal = seawall.open(self.dir)
        wal.append(b"a")
        follower = wal.follow(0)
        del wal
        gc.collect()
        with seawall.open(self.dir) as again:
            self.assertEqual(again.last_lsn, 1)
        self.assertEqual([r.payload for r in follower], [b"a"])

    def test_a_follower_waits_without_the_lock_of_the_interpreter(self):
        # If the wait held it, this thread could not append, and the follower would wait for ever.
        with seawall.open(self.dir) as wal:
            seen = []
            started = threading.Event()

            def follow():
                started.set()
                seen.extend(r.payload for r in wal.follow(0))

            thread = threading.Thread(target=follow)
            thread.start()
            started.wait()
            time.sleep(0.3)
            for number in range(20):
                wal.append(b"%d" % number)
            with self.assertRaises(seawall.TimedOutError) as caught:
                wal.follow(20).next_timeout(1 * MS)
            self.assertIsInstance(caught.exception, TimeoutError)
        thread.join(60)
        self.assertFalse(thread.is_alive(), "the close did not end the follower")
        self.assertEqual(seen, [b"%d" % number for number in range(20)])
        self.assertIsNone(wal.follow(20).next_timeout(1 * MS))

    def test_threads_append_at_the_same_time(self):
        with seawall.open(self.dir) as wal:
            lsns = []

            def append():
                lsns.extend([wal.append(b"from a thread") for _ in range(50)])

            threads = [threading.Thread(target=append) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(120)
            self.assertEqual(sorted(lsns), list(range(1, 401)))

    @unittest.skipIf(os.name == "nt", "a process cannot send itself Ctrl-C there")
    def test_ctrl_c_ends_a_follower_that_waits(self):
        # A process that a script starts in the background begins with the signal ignored.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        self.addCleanup(signal.signal, signal.SIGINT, before)
        with seawall.open(self.dir) as wal:
            wal.append(b"a")
            follower = wal.follow(1)
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
            with self.assertRaises(KeyboardInterrupt):
                next(follower)
            wal.append(b"b")
            self.assertEqual(next(follower).payload, b"b")
            self.assertEqual(follower.position, 2)

    def test_the_stubs_name_what_the_module_has(self):
        files = importlib.resources.files("seawall")
        self.assertTrue((files / "py.typed").is_file())
        tree = ast.parse((files / "_seawall.pyi").read_text())
        native = importlib.import_module("seawall._seawall")
        stubs = {}
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                methods = [n for n in node.body if isinstance(n, ast.FunctionDef)]
                stubs[node.name] = {n.name for n in methods if n.name != "__new__"}
            elif isinstance(node, ast.FunctionDef):
                stubs[node.name] = None
            elif isinstance(node, ast.AnnAssign):
                stubs[node.target.id] = None
        inherited = set(dir(object))
        own = {"__iter__", "__next__", "__enter__", "__exit__"}
        hidden = {"__all__", "__doc__", "__file__", "__loader__", "__name__", "__package__", "__spec__"}
        self.assertEqual(set(stubs), set(dir(native)) - hidden)
        for name, methods in stubs.items():
            if methods is not None:
                has = set(dir(getattr(native, name)))
                has = {n for n in has if n in own or not n.startswith("_")} - inherited
                self.assertEqual(methods - inherited, has, name)
        self.assertEqual(set(seawall.__all__) - set(stubs), {
            name for name in vars(seawall._errors) if name.endswith("Error")
        })


if __name__ == "__main__":
    unittest.main()
