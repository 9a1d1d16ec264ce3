"""kiln's appliance after an edit of the last component. kiln-appliance-edit.py LAB OUT"""

import sys

from kiln import Lab, main

if __name__ == "__main__":
    main(Lab(sys.argv[1]), sys.argv[2], lane="appliance", edit=True)
