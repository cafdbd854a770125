"""Rendezvous by TCP: threads of this process in place of workers, each with its own port."""

import concurrent.futures
import contextlib
import socket
import threading
import time

import tensorflow as tf
import workers

from dc_tf.distributed.rendezvous import PortTaken, Rendezvous, RendezvousFailed


def addresses(count):
    return [f"localhost:{port}" for port in workers.free_ports(count)]


class RendezvousTest(tf.test.TestCase):
    def run_all(self, count, body, timeout_s=10.0, lists=None, absent=()):
        """{rank: what body(rendezvous, rank) returns, or its RendezvousFailed}, in threads."""
        lists = lists or [addresses(count)] * count

        def work(rank):
            with Rendezvous(lists[rank], rank, timeout_s) as rendezvous:
                try:
                    return body(rendezvous, rank)
                except RendezvousFailed as error:
                    return error

        ranks = [rank for rank in range(count) if rank not in absent]
        with concurrent.futures.ThreadPoolExecutor(count) as pool:
            return dict(zip(ranks, pool.map(work, ranks), strict=True))

    def test_all_learn_what_all_know(self):
        for count in (2, 5):
            found = self.run_all(count, lambda rendezvous, rank: rendezvous.exchange({"is": rank}))
            expected = {rank: {"is": rank} for rank in range(count)}
            self.assertEqual(found, {rank: expected for rank in range(count)})

    def test_workers_may_start_late_and_be_busy_between_rounds(self):
        def body(rendezvous, rank):
            first = rendezvous.exchange({"round": 0})
            time.sleep(1.5 * (rank == 1))  # longer than the time for a silent worker
            return first, rendezvous.exchange({"round": 1})

        lists = [addresses(3)] * 3
        with concurrent.futures.ThreadPoolExecutor(3) as pool:

            def work(rank):
                time.sleep(0.5 * rank)
                with Rendezvous(lists[rank], rank, timeout_s=5 if rank != 2 else 1.2) as rendezvous:
                    return body(rendezvous, rank)

            for first, second in pool.map(work, range(3)):
                self.assertEqual(set(first), {0, 1, 2})
                self.assertEqual([facts["round"] for facts in second.values()], [1, 1, 1])

    def test_a_silent_worker_is_named_by_all_others(self):
        started = time.monotonic()
        found = self.run_all(3, lambda m, rank: m.exchange({}), timeout_s=1.0, absent=[1])
        self.assertLess(time.monotonic() - started, 10)
        for rank in (0, 2):
            self.assertEqual(found[rank].silent, {1: "nothing listens there"})
            # The other one answers, but misses the same worker.
            self.assertEqual(found[rank].apart, {2 - rank: (1,)})

    def test_a_pair_that_cannot_talk_is_named_by_those_who_see_it(self):
        right = addresses(3)
        closed = f"localhost:{workers.free_ports(1)[0]}"
        deaf = [right[0], closed, right[2]]  # worker 2 does not reach worker 1
        lists = [right, [right[0], right[1], closed], deaf]  # nor the other way
        found = self.run_all(3, lambda m, rank: m.exchange({}), timeout_s=1.5, lists=lists)
        self.assertEqual((found[0].silent, found[0].apart), ({}, {1: (2,), 2: (1,)}))
        self.assertEqual(set(found[1].silent), {2})
        self.assertEqual(set(found[2].silent), {1})

    def test_addresses_in_another_order_are_noticed(self):
        a, b, c = addresses(3)
        lists = [[a, b, c], [a, b, c], [a, c, b]]
        # Worker 2 listens at what the others call worker 1's address.
        with contextlib.ExitStack() as stack:
            first = stack.enter_context(Rendezvous(lists[0], 0, 1.0))
            stack.enter_context(Rendezvous(lists[2], 2, 1.0))
            with self.assertRaises(RendezvousFailed) as caught:
                first.exchange({})
        self.assertIn("worker 2 answers there", caught.exception.silent[1])

    def test_a_stranger_on_the_port_is_distinguished_from_a_worker(self):
        with socket.create_server(("localhost", 0)) as stranger:

            def talk():
                with contextlib.suppress(OSError):
                    while True:
                        connection, _ = stranger.accept()
                        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 4)
                        connection.close()

            threading.Thread(target=talk, daemon=True).start()
            names = [*addresses(1), f"localhost:{stranger.getsockname()[1]}"]
            with Rendezvous(names, 0, 1.0) as rendezvous:
                with self.assertRaises(RendezvousFailed) as caught:
                    rendezvous.exchange({})
            stranger.shutdown(socket.SHUT_RDWR)
        self.assertRegex(caught.exception.silent[1], "another program|reset|pipe")

    def test_what_strangers_send_changes_nothing(self):
        names = addresses(2)
        magic = b"dc_tf doctor 1\n"
        junk = [b"", b"GET / HTTP/1.1\r\n\r\n", magic + b"\xff\xff\xff\xff", magic + b"\2\0\0\0[]"]
        junk += [magic + len(t).to_bytes(4, "little") + t for t in (b"{}", b'{"round": [1]}', b"{")]
        junk += [magic + b'\x2a\0\0\0{"round": 0, "rank": {}, "workers": 2}    ']

        def body(rendezvous, rank):
            rendezvous.exchange({})
            for data in junk if rank == 0 else ():
                with socket.create_connection(("localhost", int(names[1].split(":")[1]))) as s:
                    s.sendall(data)
            return rendezvous.exchange({"is": rank})

        found = self.run_all(2, body, lists=[names, names])
        self.assertEqual(found[1], {0: {"is": 0}, 1: {"is": 1}})

    def test_a_port_that_is_taken_is_an_error_at_once(self):
        names = addresses(2)
        with Rendezvous(names, 0, 1.0):
            with self.assertRaisesRegex(PortTaken, names[0].split(":")[1]):
                Rendezvous(names, 0, 1.0)
        Rendezvous(names, 0, 1.0).close()  # free again at once


if __name__ == "__main__":
    tf.test.main()
