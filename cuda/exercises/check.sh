# Builds an exercise with the checker and runs it. From the folder above cuda/:
#     sh cuda/exercises/check.sh 2                      the second one, as it is
#     sh cuda/exercises/check.sh 2 -DBREAK=1            with something broken
#     sh cuda/exercises/check.sh my_kernels.cu          any other file
number=$1
[ -f "$1" ] || [ -f "$(echo cuda/exercises/"$1"_*.cu)" ] ||
    { echo "check.sh: no exercise '$1': a number from 1 to 8, or a file of yours, is needed"; exit 1; }
shift
for source in cuda/exercises/"$number"_*.cu; do [ -f "$source" ] || source=$number; done
mkdir -p build
${CXX:-g++} -std=c++17 -g -O1 -fno-tree-sra -Icuda -DCUDA_ON_CPU_CHECK -fsanitize=thread "$@" -x c++ "$source" \
    -o build/exercise -nodefaultlibs -lstdc++ -lm -lc -lgcc_s -lgcc && build/exercise
