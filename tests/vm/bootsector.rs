//! Guests of 512 bytes: what the firmware loads from the first sector of a disk and jumps to.

use std::path::{Path, PathBuf};

use kiln::model::DiskFormat;

/// Machine code for 16-bit real mode, put together piece by piece.
#[derive(Default)]
pub struct Program(Vec<u8>);

impl Program {
    /// Writes a text to the first serial port.
    pub fn print(mut self, text: &str) -> Program {
        self.0.extend([0xba, 0xf8, 0x03]); // mov dx, 0x3f8
        for byte in text.bytes() {
            self.0.extend([0xb0, byte, 0xee]); // mov al, byte; out dx, al
        }
        self
    }

    /// Writes to the first serial port for ever.
    pub fn flood(mut self) -> Program {
        self.0.extend([0xba, 0xf8, 0x03]); // mov dx, 0x3f8
        self.0.extend([0xb0, b'x', 0xee, 0xeb, 0xfd]); // mov al, 'x'; again: out dx, al; jmp again
        self
    }

    /// Powers off through ACPI, at the place where q35 has it.
    pub fn power_off(mut self) -> Program {
        self.0.extend([0xb8, 0x00, 0x20, 0xba, 0x04, 0x06, 0xef]); // mov ax, 0x2000; mov dx, 0x604; out dx, ax
        self.halt()
    }

    /// Resets through the keyboard controller.
    pub fn reset(mut self) -> Program {
        self.0.extend([0xb0, 0xfe, 0xe6, 0x64]); // mov al, 0xfe; out 0x64, al
        self.halt()
    }

    /// Writes from the disk's ninth sector on, 127 at a time, for ever.
    pub fn write_the_disk(mut self) -> Program {
        // xor ax, ax; mov ds, ax; again: mov si, packet; mov ax, 0x4300; mov dl, 0x80; int 0x13;
        // add word [packet.sector], 127; jmp again
        let packet = 0x7c00 + self.0.len() as u16 + 22;
        self.0.extend([0x31, 0xc0, 0x8e, 0xd8, 0xbe]);
        self.0.extend(packet.to_le_bytes());
        self.0.extend([0xb8, 0x00, 0x43, 0xb2, 0x80, 0xcd, 0x13, 0x81, 0x06]);
        self.0.extend((packet + 8).to_le_bytes());
        self.0.extend([0x7f, 0x00, 0xeb, 0xec]);
        self.0.extend([16, 0, 127, 0, 0, 0, 0x00, 0x10, 8, 0, 0, 0, 0, 0, 0, 0]);
        self
    }

    /// Takes the interrupt table away and interrupts.
    pub fn triple_fault(mut self) -> Program {
        self.0.extend([0x31, 0xc0, 0x8e, 0xd8]); // xor ax, ax; mov ds, ax
        let nothing = 0x7c00 + self.0.len() as u16 + 6;
        self.0.extend([0x0f, 0x01, 0x1e]); // lidt [nothing]
        self.0.extend(nothing.to_le_bytes());
        self.0.extend([0xcc, 0, 0, 0, 0, 0, 0]); // int3; nothing: limit 0, base 0
        self
    }

    /// Tells the panic device of a panic.
    pub fn panic(mut self) -> Program {
        self.0.extend([0xba, 0x05, 0x05, 0xb0, 0x01, 0xee]); // mov dx, 0x505; mov al, 1; out dx, al
        self.halt()
    }

    /// Does nothing, for ever, and hears nothing.
    pub fn halt(mut self) -> Program {
        self.0.extend([0xfa, 0xf4, 0xeb, 0xfd]); // cli; again: hlt; jmp again
        self
    }

    /// Writes a raw disk of 2 MiB, all but its first sector a hole, that boots this program.
    pub fn disk(self, folder: &Path) -> PathBuf {
        let path = folder.join("boot.raw");
        let mut sector = self.0;
        assert!(sector.len() <= 510, "{} bytes of code", sector.len());
        sector.resize(510, 0);
        sector.extend([0x55, 0xaa]);
        // The firmware reads by cylinder, head and sector: a disk below one cylinder has no first sector.
        std::fs::write(&path, sector).unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_len(2 << 20).unwrap();
        path
    }
}

/// A machine that boots `program`, with its disk in `folder`.
pub fn spec(program: Program, folder: &Path) -> kiln::machine::MachineSpec {
    use kiln::machine::{Accelerator, Disk, MachineSpec};
    let mut spec = MachineSpec::new("bootsector", kiln::model::Architecture::X86_64, Accelerator::Tcg);
    spec.memory_mib = 32;
    spec.disks = vec![Disk::new(program.disk(folder), DiskFormat::Raw)];
    spec
}
