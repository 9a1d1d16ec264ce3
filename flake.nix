{
  description = "kiln: a local factory for golden VM images";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs = { self, nixpkgs }:
    let
      systems = [ "x86_64-linux" "aarch64-linux" ];
      each = f: nixpkgs.lib.genAttrs systems (system: f nixpkgs.legacyPackages.${system});
      tools = pkgs: with pkgs; [ qemu xz mmdebstrap dosfstools mtools util-linux e2fsprogs grub2 gnupg ];
    in
    {
      packages = each (pkgs: rec {
        default = kiln;
        kiln = pkgs.rustPlatform.buildRustPackage {
          pname = "kiln";
          version = "0.1.0";
          src = self;
          cargoLock.lockFile = ./Cargo.lock;
          # The guest agent is linked statically against glibc.
          buildInputs = [ pkgs.glibc.static ];
          nativeBuildInputs = [ pkgs.makeWrapper pkgs.installShellFiles ];
          # Tests start real guests; they run in `cargo xtask test`, not in the sandbox.
          cargoTestFlags = [ "--workspace" "--lib" ];
          postInstall = ''
            for shell in bash zsh fish; do
              $out/bin/kiln completion $shell > kiln.$shell
              installShellCompletion --cmd kiln --$shell kiln.$shell
            done
            wrapProgram $out/bin/kiln --suffix PATH : ${pkgs.lib.makeBinPath (tools pkgs)}
          '';
        };
      });

      devShells = each (pkgs: {
        default = pkgs.mkShell {
          packages = (tools pkgs) ++ (with pkgs; [ cargo rustc clippy rustfmt gcc glibc.static ]);
        };
      });

      checks = each (pkgs: {
        inherit (self.packages.${pkgs.system}) kiln;
        format = pkgs.runCommand "kiln-format" { nativeBuildInputs = with pkgs; [ cargo rustfmt ]; } ''
          cd ${self} && cargo fmt --all --check && touch $out
        '';
      });
    };
}
