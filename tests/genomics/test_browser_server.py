"""The server of the genome browser serves its resources to this machine, and nothing else."""

import http.client
import json
import socket
from threading import Thread

import pytest

from ldarnet.errors import UserError
from ldarnet.genomics.browser.server import MAX_BODY_BYTES, SiteServer, WebContent, WebSite

CONTENT = bytes(range(256)) * 20


def refuse(parameters):
    raise UserError("no such region")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    file = tmp_path_factory.mktemp("files") / "track.bw"
    file.write_bytes(CONTENT)
    site = WebSite(
        {"": WebContent.of(b"page", "text/html"), "tracks/1": WebContent.of_file(file)},
        {"features": lambda parameters: parameters, "refused": refuse},
        {"api/echo": lambda body: {"received": len(body)}},
    )
    file.with_name("secret.txt").write_text("not served")
    file.unlink()  # the open file is served, whatever becomes of its path
    with SiteServer(site, 0) as served:
        thread = Thread(target=served.serve_forever)
        thread.start()
        yield served
        served.shutdown()
        thread.join()


@pytest.fixture
def ask(server):
    def request(method, path="", body=None, *, secret=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        prefix = server.secret if secret is None else secret
        connection.request(method, f"/{prefix}/{path}", body, named)
        response = connection.getresponse()
        content = response.read()
        connection.close()
        return response, content

    return request


def test_it_listens_on_the_loopback_interface_only(server):
    assert server.socket.getsockname()[0] == "127.0.0.1"
    assert server.url.startswith(f"http://127.0.0.1:{server.server_port}/")


def test_the_page_may_load_from_this_server_only(ask):
    response, content = ask("GET")
    assert (response.status, content) == (200, b"page")
    policy = response.getheader("Content-Security-Policy")
    assert "default-src 'none'" in policy and "connect-src 'self'" in policy and "http" not in policy


@pytest.mark.parametrize(
    ("header", "status", "first", "last"),
    [
        (None, 200, 0, 5119),
        ("bytes=0-0", 206, 0, 0),
        ("bytes=100-299", 206, 100, 299),
        ("bytes=5000-", 206, 5000, 5119),
        ("bytes=5000-99999", 206, 5000, 5119),
        ("bytes=-20", 206, 5100, 5119),
        ("bytes=-99999", 200, 0, 5119),
        ("bytes=9-3", 200, 0, 5119),
        ("bytes=0-1,5-6", 200, 0, 5119),
        ("lines=0-1", 200, 0, 5119),
    ],
)
def test_byte_ranges(ask, header, status, first, last):
    headers = {} if header is None else {"Range": header}
    response, content = ask("GET", "tracks/1", **headers)
    assert (response.status, content) == (status, CONTENT[first : last + 1])
    if status == 206:
        assert response.getheader("Content-Range") == f"bytes {first}-{last}/5120"
    response, content = ask("HEAD", "tracks/1", **headers)
    assert (response.status, content, response.getheader("Content-Length")) == (status, b"", str(last - first + 1))


@pytest.mark.parametrize("header", ["bytes=5120-", "bytes=9999-99999", "bytes=-0"])
def test_ranges_beyond_the_end_are_refused(ask, header):
    response, content = ask("GET", "tracks/1", Range=header)
    assert (response.status, content, response.getheader("Content-Range")) == (416, b"", "bytes */5120")


@pytest.mark.parametrize(
    "path",
    [
        "secret.txt",
        "tracks/secret.txt",
        "tracks/../secret.txt",
        "tracks/",
        "..%2f..%2fetc%2fpasswd",
        "../../../../etc/passwd",
        "%2e%2e/%2e%2e/etc/passwd",
        "tracks%2f1",
        "/etc/passwd",
    ],
)
def test_other_paths_do_not_exist(ask, path):
    response, content = ask("GET", path)
    assert response.status == 404
    assert b"not served" not in content and b"root:" not in content


@pytest.mark.parametrize("secret", ["", "wrong", "%C3%BC%00"])
def test_nothing_is_served_without_the_secret_of_the_address(ask, secret):
    assert ask("GET", secret=secret)[0].status == 404


@pytest.mark.parametrize(
    "host", ["example.org", "127.0.0.1.example.org:80", "192.168.0.1", "", "[::1", "localhost.evil"]
)
def test_other_host_names_are_refused(ask, host):
    assert ask("GET", Host=host)[0].status == 403


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:8000", "[::1]:9"])
def test_loopback_names_are_accepted_with_any_port(ask, host):
    """An SSH tunnel may end at another port."""
    assert ask("GET", Host=host)[0].status == 200


def test_requests_of_other_sites_are_refused(ask):
    json_type = {"Content_Type": "application/json"}
    assert ask("POST", "api/echo", b"{}", Origin="http://example.org", **json_type)[0].status == 403
    assert ask("POST", "api/echo", b"{}", Host="localhost:1", Origin="http://localhost:1", **json_type)[0].status == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "tracks/1", 405),
        ("POST", "features", 405),
        ("POST", "unknown", 404),
        ("GET", "api/echo", 405),
        ("PUT", "tracks/1", 501),
        ("DELETE", "tracks/1", 501),
    ],
)
def test_wrong_methods(ask, method, path, status):
    assert ask(method, path, b"{}", Content_Type="application/json")[0].status == status


def test_bodies_are_limited(ask):
    json_type = {"Content_Type": "application/json"}
    assert ask("POST", "api/echo", b"x" * 10)[0].status == 415
    assert ask("POST", "api/echo", None, Content_Length="", **json_type)[0].status == 411
    assert ask("POST", "api/echo", None, Content_Length=str(MAX_BODY_BYTES + 1), **json_type)[0].status == 413
    assert ask("POST", "api/echo", None, Content_Length="-1", **json_type)[0].status == 411
    assert json.loads(ask("POST", "api/echo", b"x" * 10, **json_type)[1]) == {"received": 10}


def test_queries_receive_the_parameters_and_report_errors(ask):
    assert json.loads(ask("GET", "features?contig=chr%31&start=5")[1]) == {"contig": "chr1", "start": "5"}
    response, content = ask("GET", "refused")
    assert (response.status, json.loads(content)) == (400, {"error": "no such region"})


def test_a_connection_may_be_closed_early(server, ask, capsys):
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", server.server_port)) as raw:
            raw.sendall(f"GET /{server.secret}/tracks/1 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    assert ask("GET")[0].status == 200
    assert capsys.readouterr().err == ""


def test_a_port_in_use_is_reported(server):
    with pytest.raises(UserError, match=rf"--port {server.server_port}: address already in use; choose another port"):
        SiteServer(WebSite(), server.server_port)
