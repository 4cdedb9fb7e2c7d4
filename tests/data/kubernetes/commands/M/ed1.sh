#!/bin/sh
sed -i "s/b: two/b: edited/" "$1"
