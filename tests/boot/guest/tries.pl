#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# Tries what a confined service must not be able to do, and prints the result of each attempt:
# "done", the error's name, or the signal that ended the attempt.
#
# It judges nothing: the host compares the results with those of the same attempts outside.
use strict;
use warnings;
use Errno;
use Fcntl;

# Each attempt has its own process, because a filter may kill it.
sub attempt {
    my ($what, $try) = @_;
    my $child = fork // die "cannot fork: $!";
    if (!$child) {
        $! = 0;
        exit($try->() ? 0 : $! || 255);
    }
    waitpid $child, 0;
    my ($signal, $number) = ($? & 127, $? >> 8);
    $! = $number;
    my ($error) = sort grep { $!{$_} } keys %!;
    print "$what\t", $signal ? "signal $signal" : $number ? $error // $number : 'done', "\n";
}

# perl has no names for these system calls; the numbers are those of x86-64. The words are copied,
# because perl passes only strings that it could write to.
sub system_call {
    my ($number, @words) = @_;
    return syscall($number, @words) != -1;
}
my %CALL = (
    mmap => 9, setuid => 105, capset => 126, personality => 135, chroot => 161, mount => 165,
    unshare => 272, io_uring_setup => 425,
);

# An empty struct io_uring_params, the version that capset(2) wants, and all capabilities.
my $params = "\0" x 120;
my ($version, $all) = (pack('LL', 0x20080522, 0), pack('L6', (0xffffffff) x 6));

sub sockets {
    my %family = (UNIX => 1, INET => 2, INET6 => 10, NETLINK => 16, PACKET => 17);
    for my $name (sort keys %family) {
        # Datagram sockets, or raw ones if the family has only these.
        my $type = $name =~ /NETLINK|PACKET/ ? 3 : 2;
        attempt("socket AF_$name", sub { socket(my $socket, $family{$name}, $type, 0) });
    }
    # io_uring can open sockets too, and filters do not see its requests.
    attempt('call io_uring_setup', sub { system_call($CALL{io_uring_setup}, 8, $params) });
    open(my $devices, '<', '/proc/self/net/dev') or die "cannot read /proc/self/net/dev: $!";
    /^\s*(\S+):/ and print "interface $1\tseen\n" while <$devices>;
}

sub writes {
    for my $directory (qw(/usr /usr/bin /etc /var /var/log /var/tmp /tmp /home /root /boot /run
        /run/systemd /run/early-service /dev /dev/shm /dev/mqueue)) {
        attempt("create in $directory", sub {
            my $file = "$directory/boot-test-$$";
            sysopen(my $new, $file, O_CREAT | O_EXCL | O_WRONLY) && unlink $file;
        });
    }
    # Opens the files without writing.
    for my $file (qw(/etc/passwd /usr/bin/boot-probe /proc/sysrq-trigger
        /proc/sys/kernel/core_pattern /sys/fs/cgroup/cgroup.procs /dev/kmsg /dev/vda)) {
        attempt("open $file", sub { sysopen(my $old, $file, O_WRONLY) });
    }
}

# Everything that is writable according to the kernel, except for the files of processes.
sub search {
    my $find = q(find / -path '/proc/[0-9]*' -prune -o -writable '(' -type d -o -type f ')' -print);
    chomp, print "writable $_\tfound\n" for `$find 2> /dev/null`;
}

sub rights {
    attempt('call capset', sub { system_call($CALL{capset}, $version, $all) });
    attempt('call setuid', sub { system_call($CALL{setuid}, 0) });
    attempt('call chroot', sub { system_call($CALL{chroot}, '/') });
    attempt('call mount', sub { system_call($CALL{mount}, 'none', '/mnt', 'tmpfs', 0, 0) });
    my %namespace = (user => 0x10000000, mount => 0x20000, net => 0x40000000);
    for my $name (sort keys %namespace) {
        attempt("unshare $name", sub { system_call($CALL{unshare}, $namespace{$name}) });
    }
    # PER_LINUX32, and a page that is writable and executable.
    attempt('call personality', sub { system_call($CALL{personality}, 8) });
    attempt('call mmap', sub { system_call($CALL{mmap}, 0, 4096, 7, 0x22, -1, 0) });
    attempt('signal PID 1', sub { kill 0, 1 });
}

# The privileges of a program with the set-user-ID bit, and of one with file capabilities.
sub gains {
    for my $program (qw(setuid-cat capable-cat)) {
        open(my $status, '-|', "/boot-test/$program", '/proc/self/status')
            or print "gain $program\t$!\n" and next;
        while (<$status>) {
            print "gain $program user\t$1\n" if /^Uid:\s+\d+\s+(\d+)/;
            print "gain $program $1\t$2\n" if /^(CapPrm|CapEff):\s+(\w+)/;
        }
    }
}

my %PART = (
    sockets => \&sockets, writes => \&writes, search => \&search, rights => \&rights,
    gains => \&gains,
);
$| = 1;
$PART{$_}->() for @ARGV;
