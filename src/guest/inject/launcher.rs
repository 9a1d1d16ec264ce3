//! The launcher: a unit and a script, the same whichever way they come in.

use super::agent_disk::{CONFIG_BLOCK, SERIAL};

/// The unit's name in the guest.
pub const UNIT: &str = "kiln-agent.service";

/// Where the script lies in the guest: in memory.
pub const SCRIPT_PATH: &str = "/run/kiln/launch";

/// Where the unit lies in the guest: in memory, and found by systemd.
pub const UNIT_PATH: &str = "/run/systemd/system/kiln-agent.service";

/// The unit that runs the script.
///
/// It has no default dependencies: it must not wait for a boot that waits for
/// it (cloud-init starts it before sysinit.target), and it has to outlive the
/// orderly end of the other units, so that the host can see how a shutdown goes.
/// A process of a build that the kernel kills for lack of memory must not take
/// the agent with it, and the agent's own limit of tasks must not become the build's.
pub fn unit() -> String {
    format!(
        "[Unit]\n\
         Description=kiln's agent, for this boot only\n\
         DefaultDependencies=no\n\
         \n\
         [Service]\n\
         Type=exec\n\
         ExecStart=/bin/sh {SCRIPT_PATH}\n\
         StandardOutput=null\n\
         StandardError=journal+console\n\
         OOMPolicy=continue\n\
         TasksMax=infinity\n"
    )
}

/// The script: finds the agent's disk, copies the program into a tmpfs of its own, becomes it.
///
/// /run may be mounted noexec, hence the own tmpfs. The disk's driver may still
/// be on its way, hence the wait. It needs sh, mkdir, mount, dd, chmod and sleep.
pub fn script() -> String {
    format!(
        r#"PATH=/usr/sbin:/usr/bin:/sbin:/bin
umask 077
disk= tries=0
until [ "$disk" ]; do
    for d in /sys/block/vd*; do
        serial=
        {{ read -r serial < "$d/serial"; }} 2>/dev/null
        if [ "$serial" = {SERIAL} ]; then disk=/dev/${{d##*/}}; fi
    done
    [ "$disk" ] && break
    tries=$((tries + 1))
    if [ $tries -gt 300 ]; then echo "no disk has the serial {SERIAL}" >&2; exit 1; fi
    sleep 0.2
done
mkdir -p /run/kiln/agent &&
mount -t tmpfs -o mode=0700 kiln /run/kiln/agent &&
dd if="$disk" of=/run/kiln/agent/kiln-agent bs={CONFIG_BLOCK} skip=1 2>/dev/null &&
chmod 0700 /run/kiln/agent/kiln-agent &&
exec /run/kiln/agent/kiln-agent --config "$disk"
echo "the agent on $disk could not be started" >&2
exit 1
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_is_one_that_a_shell_can_read() {
        let check = std::process::Command::new("sh").args(["-n", "-c", &script()]).output().unwrap();
        assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
        assert!(unit().contains("DefaultDependencies=no\n"));
    }
}
