"""The guests' initial RAM disk: busybox, the kernel modules in loading order, `initrd-init.sh`."""

import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile

from . import state

KERNELS = os.path.join(state.CHECKOUT, ".cache", "kernels")
CACHE = os.path.join(state.CHECKOUT, ".cache", "initrd")

# crc32_generic comes before rdma_rxe: without it `rdma link add` fails, since rxe asks for a
# "crc32" hash by name. The modules that CRIU asks about are loaded ahead, because a failed search
# for a missing one costs it a tenth of a second with the component frozen.
MODULES = """
    virtio_pci virtio_net virtio_blk virtio_rng 9p 9pnet_virtio virtiofs overlay ext4 loop
    crc32_generic rdma_rxe ib_uverbs rdma_ucm ib_umad
    raw_diag unix_diag tcp_diag udp_diag inet_diag af_packet_diag netlink_diag
    veth macvlan bridge tun dummy ifb
    nf_tables nft_ct nft_limit nft_log nft_reject_inet nft_compat nft_fwd_netdev
    nft_dup_netdev nft_chain_nat
    nf_conntrack nf_conntrack_netlink iptable_filter ip6table_filter iptable_mangle
    xt_tcpudp xt_mark xt_conntrack xt_comment xt_multiport
    sch_tbf sch_netem sch_ingress sch_prio sch_htb act_mirred cls_u32 cls_matchall
    tcp_bbr
""".split()


class Kernel:
    """A guest kernel that tools/setup fetched."""

    def __init__(self, series):
        self.series = series
        self.root = os.path.realpath(os.path.join(KERNELS, series))
        try:
            with open(os.path.join(self.root, "version"), encoding="ascii") as source:
                self.version = source.read().strip()
        except FileNotFoundError:
            raise state.BedError(f"kernel {series} is not there; run `tools/setup --no-build "
                                 f"--kernel {series}`") from None
        self.image = os.path.join(self.root, "boot", f"vmlinuz-{self.version}")


def _module_files(kernel):
    """Paths of the modules' files, each after those it depends on."""
    files = {}
    for module in MODULES:
        shown = state.run("modprobe", "-d", kernel.root, "-S", kernel.version, "--show-depends",
                          module, check=False)
        if shown.returncode != 0:
            raise state.BedError(f"kernel {kernel.version} has no module {module}: "
                                 f"{shown.stdout.strip()}")
        for line in shown.stdout.splitlines():
            kind, _, rest = line.partition(" ")
            if kind == "insmod":
                files[rest.split()[0]] = True
    return list(files)


def initrd(kernel, work):
    """The path of the kernel's RAM disk, made (by way of the folder `work`) if it is not cached."""
    init = os.path.join(os.path.dirname(__file__), "initrd-init.sh")
    busybox = os.path.realpath(shutil.which("busybox") or "/bin/busybox")
    digest = hashlib.sha256(" ".join(MODULES).encode())
    for path in (init, busybox, __file__):
        with open(path, "rb") as source:
            digest.update(source.read())
    path = os.path.join(CACHE, f"{kernel.version}-{digest.hexdigest()[:16]}.cpio")
    if os.path.exists(path):
        return path
    state.make_folders(CACHE)
    with tempfile.TemporaryDirectory(prefix="initrd-", dir=work) as work:
        tree = os.path.join(work, "tree")
        for folder in ("bin", "proc", "sys", "dev", "newroot", "lower", "upper", "modules"):
            os.makedirs(os.path.join(tree, folder))
        shutil.copy(busybox, os.path.join(tree, "bin", "busybox"))
        shutil.copy(init, os.path.join(tree, "init"))
        os.chmod(os.path.join(tree, "init"), 0o755)
        names = []
        for source in _module_files(kernel):
            name = os.path.basename(source).removesuffix(".xz")
            target = os.path.join(tree, "modules", name)
            if source.endswith(".xz"):
                with open(target, "wb") as out:
                    subprocess.run(["xz", "-dc", source], stdout=out, check=True)
            else:
                shutil.copy(source, target)
            names.append(name)
        with open(os.path.join(tree, "modules", "order"), "w", encoding="ascii") as out:
            out.write("\n".join(names) + "\n")
        # Left uncompressed: an emulated processor unpacks slowly.
        archive = os.path.join(work, "initrd.cpio")
        state.run("sh", "-c", 'cd "$1" && find . | cpio --quiet -o -H newc >"$2"', "sh", tree,
                  archive)
        os.replace(archive, path)
    for old in os.listdir(CACHE):
        if old.startswith(kernel.version + "-") and old != os.path.basename(path):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(CACHE, old))
    return path
