"""docker-py against the engine at $DOCKER_HOST: a line for each check; the exit code is how many failed."""
import io
import sys
import tarfile

import docker
from docker.errors import APIError, ContainerError, ImageNotFound, NotFound

client = docker.from_env(timeout=60)
failed = 0


def check(what, work):
    global failed
    try:
        problem = work()
        assert problem is None or problem is True, repr(problem)
        print("ok    docker-py:", what)
    except Exception as error:  # Every failure is one line, and the others go on.
        failed += 1
        print("FAIL  docker-py:", what + ":", type(error).__name__, error)


def raises(kind, words, work):
    try:
        work()
    except kind as error:
        return words in str(error) or str(error)
    return f"no {kind.__name__}"


check("ping and version", lambda: client.ping() and client.version()["ApiVersion"] == "1.52")
check("run shows the output", lambda: client.containers.run("busybox", "echo hi", remove=True) == b"hi\n")
check("run raises what fails", lambda: raises(ContainerError, "non-zero exit status 3", lambda: client.containers.run("busybox", "sh -c 'exit 3'", remove=True)))
check("a missing image", lambda: raises(ImageNotFound, "No such image", lambda: client.images.get("none:1")))
check("a missing container", lambda: raises(NotFound, "No such container", lambda: client.containers.get("none")))
one = client.containers.run("busybox", "sleep 1000", name="one", detach=True, labels={"k": "v"}, ports={"80/tcp": None})


def execs():
    # Twenty of them: the first frames must not be lost.
    for n in range(20):
        code, output = one.exec_run(["echo", str(n)])
        assert (code, output) == (0, f"{n}\n".encode()), (n, code, output)


def both_streams():
    code, (out, err) = one.exec_run(["sh", "-c", "echo out; echo err >&2; exit 4"], demux=True)
    assert (code, out, err) == (4, b"out\n", b"err\n"), (code, out, err)


def archives():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("file")
        info.size = 4
        archive.addfile(info, io.BytesIO(b"text"))
    assert one.put_archive("/tmp", buffer.getvalue())
    chunks, stat = one.get_archive("/tmp/file")
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
        assert archive.extractfile("file").read() == b"text"
    assert stat["name"] == "file" and stat["size"] == 4, stat


def attached():
    container = client.containers.create("busybox", ["sh", "-c", "echo said"])
    output = container.attach(stream=True, logs=False)
    container.start()
    assert b"".join(output) == b"said\n"
    assert container.wait()["StatusCode"] == 0
    container.remove()


def events():
    since = client.api.info()["SystemTime"]
    client.containers.run("busybox", "true", remove=True)
    actions = [event["Action"] for event in client.events(since=since, until=client.api.info()["SystemTime"], decode=True)]
    for wanted in ["create", "start", "die", "destroy"]:
        assert wanted in actions, actions


def networks():
    network = client.networks.create("mine", labels={"a": "b"})
    network.connect(one, aliases=["alias"])
    network.reload()
    assert [c.name for c in network.containers] == ["one"], network.containers
    assert raises(APIError, "has active endpoints", network.remove) is True
    network.disconnect(one)
    network.remove()
    assert {"bridge", "host", "none"} <= {n.name for n in client.networks.list()}


def volumes():
    volume = client.volumes.create()
    assert len(volume.name) == 64
    assert volume.name in [v.name for v in client.volumes.list(filters={"dangling": True})]
    volume.remove()
    assert raises(NotFound, "no such volume", volume.reload) is True


def builds():
    image, lines = client.images.build(fileobj=io.BytesIO(b"FROM busybox\nLABEL made=here\n"), tag="built:py")
    assert image.labels == {"made": "here"}, image.labels
    client.images.remove("built:py")


check("exec", execs)
check("exec with both streams apart", both_streams)
check("archives", archives)
check("attach before the start", attached)
check("list with a filter", lambda: [c.name for c in client.containers.list(filters={"label": "k=v"})] == ["one"])
check("stats", lambda: one.stats(stream=False)["memory_stats"]["usage"] > 0)
check("top", lambda: "sleep 1000" in one.top()["Processes"][0][-1])
check("published ports", lambda: one.reload() or bool(one.ports["80/tcp"][0]["HostPort"]))
check("networks", networks)
check("volumes", volumes)
check("events", events)
check("build", builds)
check("a wrong limit", lambda: raises(APIError, "Minimum memory limit allowed is 6MB", lambda: client.containers.create("busybox", mem_limit="4k")))
check("kill", lambda: one.kill() or one.reload() or one.status == "exited")
check("remove", lambda: one.remove(v=True))
check("prune of nothing", lambda: client.containers.prune()["ContainersDeleted"] is None)
sys.exit(failed)
