#!/usr/bin/env python3
"""Pulls of base images over a bad connection: none may be wrong, none endless.

usage: pulls.py KILN NGINX [COUNT [SEED]]

A real web server (nginx, in a temporary folder, on loopback) publishes a disk,
a signed list of its digests and a page of its versions. Between it and kiln is a
proxy of this script that cuts at a random byte, ignores Range, changes the file
between tries (with its tag or without), lies about Content-Length, answers
garbage, says nothing, or drips. Some kilns are killed or called off half-way
and started again. At the end of each pull the base image's disk is compared
with what the server really has. Every tenth server never gets better: those
pulls must fail, soon, and keep nothing.
"""
import collections, concurrent.futures, hashlib, http.client, json, os, pathlib, random, shutil, signal, socket
import subprocess, sys, tempfile, threading, time, urllib.parse

KILN, NGINX = (str(pathlib.Path(a).resolve()) for a in sys.argv[1:3])
COUNT = int(sys.argv[3]) if len(sys.argv) > 3 else 100
SEED = int(sys.argv[4]) if len(sys.argv) > 4 else random.randrange(1 << 32)
MIB = 1 << 20
SIZE = 12 * MIB
# The longest way: three times silence of 30 s on the disk, twice 60 s on lists, pauses, the import.
LIMIT = 420
AT_ONCE = 10

DISK_FAULTS = ["cut", "cut", "cut", "no-range", "cut-no-range", "other-file", "other-file-cut", "longer", "shorter",
               "garbage", "page", "nothing", "reset", "busy", "stall", "drip"]
LIST_FAULTS = ["cut", "garbage", "page", "reset", "busy", "longer", "shorter", "stall"]
FOREVER = ["cut-early", "page", "garbage", "other-file", "reset"]


def port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Vendor:
    """nginx and what it publishes: two editions of everything under /1/ and /2/, and another file."""

    def __init__(self, folder):
        self.folder, self.port, self.raw = folder, port(), {}
        www = folder / "www"
        gnupg = folder / "gnupg"
        gnupg.mkdir(mode=0o700)
        gpg = ["gpg", "--homedir", str(gnupg), "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", ""]
        subprocess.run(gpg + ["--quick-gen-key", "vendor", "ed25519", "sign", "never"], check=True)
        subprocess.run(gpg + ["--output", str(folder / "vendor.gpg"), "--export", "vendor"], check=True)
        for edition in "12":
            version = www / edition / "20250101"
            version.mkdir(parents=True)
            raw = folder / f"{edition}.raw"
            raw.write_bytes(os.urandom(SIZE))
            self.raw[edition] = hashlib.sha256(raw.read_bytes()).hexdigest()
            disk = version / "disk.qcow2"
            subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, disk], check=True)
            (version / "SHA256SUMS").write_text(f"{hashlib.sha256(disk.read_bytes()).hexdigest()}  disk.qcow2\n")
            subprocess.run(gpg + ["--output", str(version / "SHA256SUMS.gpg"), "--detach-sign",
                                  str(version / "SHA256SUMS")], check=True)
        subprocess.run(["gpgconf", "--homedir", str(gnupg), "--kill", "all"], check=True)
        # As long, and otherwise another: what a mirror in the middle of an update may send.
        (www / "other").mkdir()
        (www / "other/disk.qcow2").write_bytes(os.urandom((www / "1/20250101/disk.qcow2").stat().st_size))
        temporary = "".join(f"{kind}_temp_path {folder}/temp;" for kind in
                            ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"])
        (folder / "nginx.conf").write_text(
            f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;\n"
            f"events {{}}\nhttp {{ access_log off; {temporary}\n"
            f"server {{ listen 127.0.0.1:{self.port}; root {www}; autoindex on; }} }}\n")
        self.process = subprocess.Popen([NGINX, "-p", str(folder), "-c", str(folder / "nginx.conf")],
                                        stderr=subprocess.DEVNULL)

    def wait(self):
        end = time.monotonic() + 20
        while True:
            try:
                return self.ask("/1/", {})[0].read()
            except OSError:
                if self.process.poll() is not None or time.monotonic() > end:
                    raise SystemExit(f"nginx does not start: {(self.folder / 'error.log').read_text()}")
                time.sleep(0.05)

    def ask(self, path, headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("GET", path, headers=headers)
        return connection.getresponse(), connection

    def version(self):
        return subprocess.run([NGINX, "-v"], stderr=subprocess.PIPE, text=True).stderr.strip()


class Plan:
    """What one pull meets."""

    def __init__(self, number, rng):
        self.number, self.rng, self.edition = number, rng, "1"
        self.forever = number % 10 == 9
        self.disk = rng.sample(DISK_FAULTS, rng.randrange(4))
        self.lists = [rng.choice(LIST_FAULTS)] if rng.random() < 0.3 else []
        self.publishes = not self.forever and rng.random() < 0.15
        self.end = rng.choice([signal.SIGKILL, signal.SIGTERM]) if not self.forever and rng.random() < 0.2 else None
        if self.forever:
            self.disk, self.lists = [rng.choice(FOREVER)], []
        if self.publishes:
            self.disk.insert(0, "cut")
        self.met, self.asked, self.sent = [], 0, 0

    def fault(self, path):
        """Of the next answer, or None."""
        if path.endswith(".qcow2"):
            self.asked += 1
            if self.forever:
                return self.disk[0]
            if self.publishes and self.asked == 2:
                # A new edition in the place of the old one, between two tries.
                self.edition = "2"
            return self.disk.pop(0) if self.disk else None
        return self.lists.pop(0) if self.lists else None

    def story(self):
        more = [word for word, there in [("new edition", self.edition == "2"), ("killed", self.end == signal.SIGKILL),
                                         ("called off", self.end == signal.SIGTERM)] if there]
        return ", ".join(self.met + more) or "nothing"


class Proxy:
    def __init__(self, vendor):
        self.vendor, self.plans, self.lock = vendor, {}, threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=[client], daemon=True).start()

    def serve(self, client):
        client.settimeout(100)
        try:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                byte = client.recv(1)
                if not byte:
                    return
                head += byte
            lines = head.decode().split("\r\n")
            _, number, path = lines[0].split(" ")[1].split("/", 2)
            headers = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
            with self.lock:
                plan = self.plans[int(number)]
                fault = plan.fault(path)
                if fault:
                    plan.met.append(f"{fault}{'' if path.endswith('.qcow2') else ' of a list'}")
                edition = plan.edition
            self.answer(client, plan, f"/{edition}/{path}", headers, fault)
        except OSError:
            pass
        finally:
            client.close()

    def send(self, client, plan, data):
        client.sendall(data)
        with self.lock:
            plan.sent += len(data)

    def answer(self, client, plan, path, headers, fault):
        rng = plan.rng
        say = lambda data: self.send(client, plan, data)
        if fault == "nothing":
            return
        if fault == "reset":
            # Closed with something unread and no linger: the client sees a reset.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            return
        if fault == "garbage":
            return say(os.urandom(rng.randrange(1, 5000)))
        if fault == "busy":
            return say(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        if fault == "page":
            page = b"<html>Please log in to this network</html>"
            return say(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n%s" % (len(page), page))
        passed = {n: v for n, v in headers.items() if n.lower() in ("range", "if-range", "if-none-match")}
        if fault in ("no-range", "cut-no-range", "cut-early"):
            passed = {}
        response, _ = self.vendor.ask(path, passed)
        body = response.read()
        answered = [(n, v) for n, v in response.getheaders() if n.lower() not in ("connection", "content-length", "transfer-encoding")]
        length = len(body)
        if fault and fault.startswith("other-file"):
            # Another file under the same tag, from where kiln asked on.
            other = self.vendor.ask("/other/disk.qcow2", {})[0].read()
            body = other[-length:] if length <= len(other) else other
            length = len(body)
        if fault == "longer":
            length += rng.randrange(1, 100_000)
        if fault == "shorter":
            length -= rng.randrange(1, length)
        head = f"HTTP/1.1 {response.status} {response.reason}\r\nConnection: close\r\nContent-Length: {length}\r\n"
        say((head + "".join(f"{n}: {v}\r\n" for n, v in answered) + "\r\n").encode())
        if fault in ("cut", "cut-no-range", "other-file-cut", "stall", "drip"):
            at = rng.randrange(len(body))
            say(body[:at])
            if fault == "stall":
                # Until kiln hangs up.
                client.recv(1)
            while fault == "drip":
                say(body[at:at + 1])
                time.sleep(0.5)
        elif fault == "cut-early":
            say(body[:rng.randrange(100_000)])
        else:
            for at in range(0, len(body), 1 << 16):
                say(body[at:at + (1 << 16)])
                # A line of some 60 MiB/s: what ends half-way has a half-way.
                time.sleep(0.001)


def pull(folder, proxy, vendor, plan):
    """One pull to its end; returns seconds and what was wrong, or None."""
    home = folder / f"home-{plan.number}"
    address = f"http://127.0.0.1:{proxy.port}/{plan.number}"
    definition = folder / f"{plan.number}.yaml"
    definition.write_text(
        "name: vendors\ndescription: of the trial\narchitecture: x86_64\nfirmware: [bios]\ndownload:\n"
        f"  versions: {{page: '{address}/', link: '\"{{version}}/\"'}}\n"
        f"  address: {address}/{{version}}/disk.qcow2\n  checksums: {address}/{{version}}/SHA256SUMS\n"
        f"  signature: {{address: '{address}/{{version}}/SHA256SUMS.gpg', key: {folder}/vendor.gpg}}\n")
    argv = [KILN, "--home", str(home), "--format", "json", "--progress", "plain", "base", "pull", str(definition)]
    begun, told = time.monotonic(), ""

    def run(end=None):
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            if end:
                try:
                    process.wait(plan.rng.uniform(0.02, 1.5))
                except subprocess.TimeoutExpired:
                    process.send_signal(end)
            out, err = process.communicate(timeout=LIMIT - (time.monotonic() - begun))
            return process.returncode, out, err
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            return "endless", out, err

    wrong = None
    code, out, err = run(plan.end)
    told += err
    if plan.end and code in (-signal.SIGKILL, 130):
        code, out, err = run()
        told += err
    elif plan.end and code != 0:
        wrong = f"exit code {code} after a signal"
    seconds = time.monotonic() - begun
    bases = list((home / "bases").glob("*/base.json")) if home.exists() else []
    if code == "endless":
        wrong = f"still at it after {LIMIT} s"
    elif plan.forever:
        if code != 8 or bases:
            wrong = f"exit code {code}, {len(bases)} bases from a server that never gets better"
    elif code != 0:
        wrong = f"exit code {code}"
    else:
        record = json.loads(out)
        truth = folder / "www" / plan.edition / "20250101" / "disk.qcow2"
        subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", record["disk"], home / "back.raw"], check=True)
        if record["origin"]["digest"] != hashlib.sha256(truth.read_bytes()).hexdigest():
            wrong = "the digest is not that of the server's file"
        elif hashlib.sha256((home / "back.raw").read_bytes()).hexdigest() != vendor.raw[plan.edition]:
            wrong = "the disk is not the server's"
        elif record["unverified"] or not record["origin"]["signedBy"]:
            wrong = "its signature was not checked"
        left = [p for p in [*(home / "tmp").glob("*"), *(home / "pulls/parts").glob("*")]]
        # What a killed kiln left in tmp, the next one takes away; its part was gone on with.
        if not wrong and left:
            wrong = f"left behind: {', '.join(str(p.relative_to(home)) for p in left)}"
    shutil.rmtree(home, ignore_errors=True)
    return seconds, code, wrong, told + (out if wrong else "")


def main():
    print(f"{COUNT} pulls, seed {SEED}")
    with tempfile.TemporaryDirectory(prefix="kiln-pulls-") as folder:
        folder = pathlib.Path(folder)
        vendor = Vendor(folder)
        try:
            vendor.wait()
            print(f"{vendor.version()}, a disk of {SIZE // MIB} MiB")
            return trial(folder, vendor)
        finally:
            vendor.process.terminate()
            vendor.process.wait(20)


def trial(folder, vendor):
    proxy = Proxy(vendor)
    for number in range(COUNT):
        proxy.plans[number] = Plan(number, random.Random(SEED * 1000 + number))
    begun, failed, met, longest = time.monotonic(), 0, collections.Counter(), 0
    sent = good = 0
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        running = {pool.submit(pull, folder, proxy, vendor, plan): plan for plan in proxy.plans.values()}
        for done in concurrent.futures.as_completed(running):
            plan = running[done]
            seconds, code, wrong, told = done.result()
            longest, sent = max(longest, seconds), sent + plan.sent
            good += code == 0 and not wrong
            met.update(set(plan.met))
            print(f"pull {plan.number:>3} {'WRONG' if wrong else 'ok'} exit {code} in {seconds:5.1f} s, "
                  f"{plan.asked} requests, {plan.sent / MIB:5.1f} MiB; met {plan.story()}", flush=True)
            if wrong:
                failed += 1
                print(f"  {wrong}\n" + "".join(f"  | {line}\n" for line in told.splitlines()))
    print(f"met: {', '.join(f'{name} {n}' for name, n in sorted(met.items()))}")
    print(f"{COUNT} pulls in {time.monotonic() - begun:.0f} s, {good} complete and right, "
          f"{sum(p.forever for p in proxy.plans.values())} from servers that never get better refused, {failed} wrong; "
          f"longest {longest:.0f} s; {sent / MIB / COUNT:.1f} MiB sent a pull of {SIZE // MIB}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
