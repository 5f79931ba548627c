"""Ports for the connection between ranks."""

import socket

from ldarnet.runtime import ports


def test_ports_are_below_those_of_outgoing_connections():
    first_ephemeral = int(ports.EPHEMERAL.read_text().split()[0])
    assert all(ports.FIRST <= ports.free_port() < first_ephemeral for _ in range(50))


def test_taken_ports_are_not_chosen(monkeypatch, tmp_path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        taken = listener.getsockname()[1]
        (tmp_path / "range").write_text(f"{taken + 10}\t65535\n")
        monkeypatch.setattr(ports, "EPHEMERAL", tmp_path / "range")
        monkeypatch.setattr(ports, "FIRST", taken)
        assert taken not in {ports.free_port() for _ in range(100)}


def test_any_port_is_chosen_where_no_port_is_below(monkeypatch, tmp_path):
    monkeypatch.setattr(ports, "EPHEMERAL", tmp_path / "missing")
    assert ports.FIRST <= ports.free_port() <= ports.LAST
