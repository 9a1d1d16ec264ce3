"""kiln after an edit of the last component: a boot and that component. kiln-edit.py LAB OUT"""

import sys

from kiln import Lab, main

if __name__ == "__main__":
    main(Lab(sys.argv[1]), sys.argv[2], edit=True)
