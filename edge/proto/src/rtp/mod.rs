//! Views of RTP and RTCP packets over borrowed bytes.
