"""kiln, with the job in its appliance instead of a booted guest. kiln-appliance.py LAB OUT"""

import sys

from kiln import Lab, main

if __name__ == "__main__":
    main(Lab(sys.argv[1]), sys.argv[2], lane="appliance")
