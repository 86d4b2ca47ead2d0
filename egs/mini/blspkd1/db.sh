# To be sourced by local/data.sh: where corpora are on this machine. This recipe makes its own.
