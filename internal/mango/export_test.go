package mango

var (
	EncodeBookmark = encodeBookmark
	DecodeBookmark = decodeBookmark
	Translate      = translate
)
