# Sourced by scripts/compat: an authority and what it signs, made with openssl as
# docs/operations.md describes it. Keys lie beside certificates, as NAME.key and NAME.pem.
# shellcheck shell=bash

# new_authority FOLDER NAME: ca.pem and ca.key in a folder
new_authority() {
    mkdir -p "$1"
    openssl ecparam -name prime256v1 -genkey -noout -out "$1/ca.key" &&
        openssl req -x509 -new -key "$1/ca.key" -subj "/CN=$2" -days 30 -out "$1/ca.pem"
}

# issue FOLDER NAME SUBJECT [NAMES AND ADDRESSES]: a certificate for servers and clients; the subject
# is one of openssl's, such as /CN=ann
issue() {
    local extensions="extendedKeyUsage=serverAuth,clientAuth"$'\n'${4:+subjectAltName=$4}
    openssl ecparam -name prime256v1 -genkey -noout -out "$1/$2.key" &&
        openssl req -new -key "$1/$2.key" -subj "$3" |
        openssl x509 -req -CA "$1/ca.pem" -CAkey "$1/ca.key" -CAcreateserial -days 30 \
            -extfile <(echo "$extensions") -out "$1/$2.pem" 2>/dev/null
}
