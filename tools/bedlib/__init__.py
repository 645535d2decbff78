"""The test bed: QEMU guests that share this host's userland, joined by SoftRoCE.

state    what a bed consists of, recorded before it is made, so that all of it can be taken away
network  the bed's network namespace, its bridges and taps
image    the initial RAM disk
guests   disks, QEMU, virtio-fs, power
access   SSH into the guests
cli      the command line
"""
