"""The bed's guests: what they are given, their disks, QEMU, virtio-fs, power."""

import contextlib
import json
import os
import shlex
import shutil
import time

from . import image, network, state

DISK_BYTES = 4 << 30  # sparse
TRIAL_SECONDS = 15
BOOT_SECONDS = {True: 60, False: 300}  # accelerated or not; other beds may share the machine
VIRTIOFSD = ("/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd")


def _qemu(accelerator, memory_mib, cpus=1):
    return ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none",
            "-no-reboot", "-cpu", _processor(accelerator), "-smp", str(cpus),
            "-accel", "kvm" if accelerator == "kvm" else "tcg,thread=multi",
            "-machine", "pc,memory-backend=memory", "-m", str(memory_mib),
            "-object", f"memory-backend-memfd,id=memory,size={memory_mib}M,share=on"]


def _processor(accelerator):
    """Of an emulated processor that announces fast string moves (erms), kernel and C library have
    all larger copies made by `rep movsb`, which emulation does byte by byte: a fifth of the speed."""
    return "max" if accelerator == "kvm" else "max,-erms"


def _append(*words):
    return " ".join(["console=ttyS0 quiet panic=1 mitigations=off net.ifnames=0 nowatchdog "
                     "cgroup_no_v1=all random.trust_cpu=on", *words])


def kvm_works(bed, kernel, initrd):
    """Whether a guest of this kernel really runs under KVM here. Says why not.

    /dev/kvm may exist, and a guest hang in it for good: only a boot tells. The answer is kept
    until the host boots again.
    """
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False, "there is no usable /dev/kvm"
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as source:
        key = f"{source.read().strip()} {os.uname().release} {kernel.version}"
    cache = os.path.join(state.CHECKOUT, ".cache", "kvm-trial.json")
    known = {}
    with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
        with open(cache, encoding="utf-8") as source:
            known = json.load(source)
    if key not in known:
        output = os.path.join(bed.folder, "trial.log")
        bed.spawn("trial", _qemu("kvm", 512) + [
            "-kernel", kernel.image, "-initrd", initrd, "-serial", "stdio",
            "-append", _append("starling.trial")], output)
        deadline = time.monotonic() + TRIAL_SECONDS
        while "trial" in bed.processes() and time.monotonic() < deadline:
            time.sleep(0.1)
        ended = "trial" not in bed.processes()
        bed.kill("trial")
        with open(output, encoding="utf-8", errors="replace") as source:
            said = source.read()
        if "starling-bed: trial passed" in said:
            known[key] = ""
        elif ended:
            last = said.strip().splitlines()[-1:] or ["nothing"]
            known[key] = f"a trial guest under KVM ended early, saying: {last[0]}"
        else:
            known[key] = f"a trial guest under KVM did not boot within {TRIAL_SECONDS} s"
        state.write_atomically(cache, json.dumps(known, indent=2) + "\n", work=bed.folder)
    return known[key] == "", known[key]


def _certificates(bed, guest, nodes, build):
    """The bed's own authority and a certificate for each node. False if the build has no command
    line to make them with, which is what builds of other things than Starling lack."""
    program = os.path.join(build, "bin", "starling")
    if not os.access(program, os.X_OK):
        return False
    state.run(program, "cert", "authority", "--out", bed.authority)
    shutil.copy(os.path.join(bed.authority, "authority.crt"), guest)
    for node in range(1, nodes + 1):
        state.run(program, "cert", "host", f"node{node}", "--address",
                  f"{state.DATA_NET}.{node}", "--authority", bed.authority, "--out", guest)
    return True


def _agent_configuration(node, nodes, certified):
    lines = [f'host = "node{node}"', 'state_dir = "/var/lib/starling"',
             'run_dir = "/run/starling"', 'log_dir = "/var/log/starling"',
             'socket_group = "starling"',
             "[control]", f'listen = "{state.DATA_NET}.{node}:7400"',
             "[data]", 'provider = "verbs"', 'device = "rxe0"',
             f'listen = "{state.DATA_NET}.{node}:7401"',
             # An emulated processor has no AES instructions.
             'offer = ["tcp"]', 'encryption = "off"',
             "[network]", 'parent = "eth0"',
             "[security]"]
    if certified:
        lines += ['authority = "/etc/starling/authority.crt"',
                  f'certificate = "/etc/starling/node{node}.crt"',
                  f'key = "/etc/starling/node{node}.key"']
    else:
        lines += ["insecure = true"]
    for peer in range(1, nodes + 1):
        if peer != node:
            lines += ["[[peer]]", f'name = "node{peer}"',
                      f'address = "{state.DATA_NET}.{peer}:7400"']
    return "\n".join(lines) + "\n"


def prepare(bed, kernel, nodes, build):
    """Writes what the guests read (folder `guest`), the shared folder and the nodes' disks."""
    guest = os.path.join(bed.folder, "guest")
    os.makedirs(guest, exist_ok=True)
    os.makedirs(bed.shared, exist_ok=True)
    os.chmod(bed.shared, 0o1777)
    for name in ("guest-init.sh", "supervisor.sh"):
        shutil.copy(os.path.join(os.path.dirname(__file__), name), os.path.join(guest, name))
    settings = {"checkout": state.CHECKOUT, "build": build, "data_net": state.DATA_NET,
                "management_net": state.MANAGEMENT_NET,
                "modules": os.path.join(kernel.root, "lib", "modules", kernel.version)}
    with open(os.path.join(guest, "settings"), "w", encoding="utf-8") as out:
        out.writelines(f"{key}={shlex.quote(value)}\n" for key, value in settings.items())
    with open(os.path.join(guest, "hosts"), "w", encoding="ascii") as out:
        out.write("127.0.0.1 localhost\n::1 localhost\n")
        out.writelines(f"{state.DATA_NET}.{node} node{node}\n" for node in range(1, nodes + 1))
        out.write(f"{state.DATA_NET}.254 observer\n")
    certified = _certificates(bed, guest, nodes, build)
    for node in range(1, nodes + 1):
        with open(os.path.join(guest, f"node{node}.toml"), "w", encoding="ascii") as out:
            out.write(_agent_configuration(node, nodes, certified))
        folder = bed.node_folder(node)
        os.makedirs(folder, exist_ok=True)
        disk = os.path.join(folder, "disk.img")
        with open(disk, "wb") as out:
            out.truncate(DISK_BYTES)
        state.run("mke2fs", "-q", "-t", "ext4", "-L", f"node{node}",
                  "-E", "lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0", disk)


def console(bed, node):
    return os.path.join(bed.node_folder(node), "console.log")


def is_running(bed, node):
    return f"qemu{node}" in bed.processes()


def start(bed, node, description):
    """Starts a node's guest; `wait_ready` tells when it is up."""
    folder = bed.node_folder(node)
    socket = os.path.join(bed.run_folder, f"shared{node}.sock")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(socket)
    daemon = next((path for path in VIRTIOFSD if os.path.exists(path)), None)
    if daemon is None:
        raise state.BedError("no virtiofsd; run `tools/setup --no-build`")
    # One daemon for each node, as vhost-user wants it. No cache, so that the nodes agree; POSIX
    # locks are taken on the host's files, so that they hold between nodes (flock would wait inside
    # the daemon, and so stays within a node).
    # The daemon's system call filter kills it for sched_getaffinity, with which glibc's allocator
    # counts processors when it has many arenas, and GLib when its thread pool grows: one arena and
    # no pool, or the folder hangs for good in the middle of a write.
    bed.spawn(f"virtiofsd{node}",
              ["env", "MALLOC_ARENA_MAX=1", daemon, "-f", f"--socket-path={socket}",
               "-o", f"source={bed.shared}", "-o",
               "cache=none,posix_lock,no_flock,xattr,allow_direct_io,log_level=warn",
               "--thread-pool-size=0"],
              os.path.join(folder, "virtiofsd.log"))
    deadline = time.monotonic() + 10
    while not os.path.exists(socket):
        if f"virtiofsd{node}" not in bed.processes() or time.monotonic() > deadline:
            raise state.BedError(f"virtiofsd of node{node} did not start; see {folder}/virtiofsd.log")
        time.sleep(0.01)

    argv = _qemu("kvm" if description["accelerated"] else "tcg", description["memory_mib"],
                 description["cpus"])
    argv += ["-name", f"{bed.id}-node{node}",
             "-kernel", description["kernel_image"], "-initrd", description["initrd"],
             "-append", _append(f"starling.node={node}"),
             "-chardev", f"file,id=console,path={console(bed, node)},append=on",
             "-serial", "chardev:console", "-device", "virtio-rng-pci",
             "-drive", f"if=none,id=disk,format=raw,file={os.path.join(folder, 'disk.img')},"
                       "cache=writeback,discard=unmap",
             "-device", "virtio-blk-pci,drive=disk",
             "-chardev", f"socket,id=shared,path={socket}",
             "-device", "vhost-user-fs-pci,chardev=shared,tag=shared"]
    for tag, path in (("host", "/"), ("checkout", state.CHECKOUT),
                      ("bed", os.path.join(bed.folder, "guest"))):
        argv += ["-virtfs", f"local,path={path},mount_tag={tag},security_model=none,readonly=on,"
                            "multidevs=remap"]
    for kind, tap, number in (("data", network.data_tap(node), "77"),
                              ("mgmt", network.management_tap(node), "78")):
        argv += ["-netdev", f"tap,id={kind},ifname={tap},script=no,downscript=no,vhost=off",
                 "-device", f"virtio-net-pci,netdev={kind},mac=52:54:00:{number}:00:{node:02x},"
                            "romfile="]
    with open(console(bed, node), "ab") as log:
        log.write(b"starling-bed: power on\n")
    bed.spawn(f"qemu{node}", network.inside(bed, *argv), os.path.join(folder, "qemu.log"))


def wait_ready(bed, nodes, accelerated):
    """Waits until all `nodes` have booted."""
    waiting = set(nodes)
    deadline = time.monotonic() + BOOT_SECONDS[accelerated]
    while True:
        for node in sorted(waiting):
            with open(console(bed, node), encoding="utf-8", errors="replace") as source:
                log = source.read().rpartition("starling-bed: power on")[2]
            if "starling-bed: ready" in log:
                waiting.discard(node)
                continue
            cause = log.partition("starling-bed: failed: ")[2].splitlines()[:1]
            if cause:
                raise state.BedError(f"node{node} did not boot: {cause[0]} (console: "
                                     f"{console(bed, node)})")
            if not is_running(bed, node):
                with open(os.path.join(bed.node_folder(node), "qemu.log"), encoding="utf-8",
                          errors="replace") as source:
                    last = source.read().strip().splitlines()[-1:] or ["it said nothing"]
                raise state.BedError(f"QEMU of node{node} ended: {last[0]}")
        if not waiting:
            return
        if time.monotonic() > deadline:
            names = ", ".join(f"node{node}" for node in sorted(waiting))
            raise state.BedError(f"{names} did not boot within {BOOT_SECONDS[accelerated]} s "
                                 f"(console: {console(bed, min(waiting))})")
        time.sleep(0.1)


def power_off(bed, node):
    """Ends the guest as a power cut would: what it had not flushed is gone."""
    bed.kill(f"qemu{node}", f"ssh{node}", f"virtiofsd{node}")
    with open(console(bed, node), "ab") as log:
        log.write(b"starling-bed: power off\n")


def last_words(bed, node, lines=30):
    """What the console and QEMU said last of a guest that went off by itself, so that it is not lost
    with the bed; empty for one that was powered off."""
    said = []
    for path in (console(bed, node), os.path.join(bed.node_folder(node), "qemu.log")):
        with contextlib.suppress(FileNotFoundError), \
                open(path, encoding="utf-8", errors="replace") as source:
            said += source.read().rpartition("starling-bed: power on")[2].splitlines()[-lines:]
    return "" if "starling-bed: power off" in said else "\n".join(said).strip()
